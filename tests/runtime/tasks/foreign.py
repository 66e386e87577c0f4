"""Small tasks as others write them: a word in a file is to be changed, and a script of their own says the reward."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

TOML = 'schema_version = "1.1"\n[task]\nname = "somebody/word"\n[environment]\nworkdir = "/app"\n'
REWARD = "> /logs/verifier/reward.txt"
WORD = {
    "task.toml": TOML,
    "instruction.md": "Write new into /app/a.txt.\n",
    "environment/Dockerfile": "FROM debian:12\nWORKDIR /app\nCOPY a.txt /app/\n",
    "environment/a.txt": "old\n",
    "solution/solve.sh": "#!/bin/bash\necho new > /app/a.txt\n",
    "tests/test.sh": f"#!/bin/bash\nif grep -q new /app/a.txt; then echo 1; else echo 0; fi {REWARD}\n",
}


def write(folder: Path, files: Mapping[str, str | None], base: Mapping[str, str] = WORD) -> Path:
    """The task ``base`` with some files replaced, added, or (None) left out."""
    for name, text in {**base, **files}.items():
        if text is not None:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return folder
