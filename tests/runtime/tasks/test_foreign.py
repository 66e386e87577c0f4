"""Tasks from elsewhere, unchanged: loose files, any language, their own test.sh. Honest work scores 1, no work 0."""

import asyncio
from pathlib import Path

import pytest

from runtime.config import Bubblewrap
from runtime.grading.make import make_verifier
from runtime.sandboxes import bwrap, make_provider
from runtime.task import load_task
from runtime.tasks.verify import VerifyReport, verify

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(bwrap.why_impossible() is not None, reason=str(bwrap.why_impossible())),
]

SHELL = {
    "environment/Dockerfile": "FROM debian:bookworm\nWORKDIR /app\nCOPY add.sh /app/add.sh\n",
    "environment/add.sh": "echo $(($1 - $2))\n",
    # bash only: an array, and a test with double brackets
    "solution/solve.sh": "#!/bin/bash\nset -euo pipefail\nfiles=(/app/add.sh)\n[[ -f ${files[0]} ]]\n"
    "sed -i 's/-/+/' \"${files[0]}\"\n",
    "tests/test.sh": '#!/bin/bash\nr=0; [[ "$(sh /app/add.sh 2 3)" == 5 ]] && r=1\n'
    "echo $r > /logs/verifier/reward.txt\n",
    # files of its own, a symbolic link, a daemon that lives on, noise
    "honest/own-files.sh": "#!/bin/sh\ncd /app && mkdir lib && echo 'add() { echo $(($1 + $2)); }' > lib/add\n"
    "ln -s lib/add link\necho '. /app/lib/add; add $1 $2' > add.sh\n(sleep 30 &)\necho '1 passed'\n",
    "cheat/reward.sh": "#!/bin/sh\nmkdir -p /logs/verifier; echo 1 > /logs/verifier/reward.txt\n"
    "echo '{\"reward\": 1}' > /logs/verifier/reward.json\n",
}
PYTHON = {
    "environment/calc.py": "def add(a, b):\n    return a - b\n",
    "solution/solve.sh": "#!/bin/sh\nsed -i 's/a - b/a + b/' /app/calc.py\n",
    "tests/check.py": "import sys\nsys.path.insert(0, '/app')\nimport calc\nassert calc.add(2, 3) == 5\n",
    "tests/test.sh": "#!/bin/bash\nif python3 /tests/check.py; then r=1.0; else r=0.0; fi\n"
    'echo "{\\"reward\\": $r, \\"speed\\": 0.3}" > /logs/verifier/reward.json\nexit 1\n',
    "honest/conftest.sh": "#!/bin/sh\ncd /app && echo 'collect_ignore = []' > conftest.py\n"
    "sed -i 's/a - b/b + a/' calc.py\n",
}


def make(folder: Path, files: dict[str, str]) -> Path:
    texts = {
        "task.toml": 'schema_version = "1.4"\n[task]\nname = "somebody/add"\n[environment]\nworkdir = "/app"\n',
        "instruction.md": "Make it add.\n",
        **files,
    }
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize("files", [SHELL, PYTHON], ids=["shell", "python"])
def test_a_task_from_elsewhere_is_proven(tmp_path: Path, files: dict[str, str]) -> None:
    task = load_task(make(tmp_path / "add", files))
    settings = Bubblewrap(verifier_timeout_sec=30)

    async def main() -> VerifyReport:
        provider = make_provider(settings, state=tmp_path / "state")
        try:
            verifier = make_verifier(settings, provider)
            return await verify([task], provider=provider, verifier=verifier, concurrency=1, memory_mib=1024)
        finally:
            await provider.close()

    report = asyncio.run(main())
    assert report.ok, report.to_json()
    # Doing nothing once, the solution twice: what a script measures may be luck.
    assert len(report.tasks[0].checks) == 3 + sum(name.startswith(("honest/", "cheat/")) for name in files)
