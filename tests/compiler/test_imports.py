"""The compiler stays light: no torch, Ray, transformers or cluster client, and no template engine where none is
needed."""

from __future__ import annotations

import subprocess
import sys

from tests.compiler.golden_cases import REPOSITORY

HEAVY = [
    "torch",
    "ray",
    "transformers",
    "verl",
    "vllm",
    "kubernetes",
    "sky",
    "docker",
    "boto3",
    "numpy",
    "pandas",
    "pyarrow",
    "hydra",
    "omegaconf",
    "libcst",
    "aiohttp",
    "uvicorn",
]


def test_compiling_imports_nothing_heavy() -> None:
    """One process for all targets: what one has imported stays."""
    code = (
        "import sys, compiler\n"
        "for target in ('local', 'docker', 'k8s', 'ray', 'skypilot'):\n"
        "    compiler.compile_in_memory('specs/quickstart.jsonnet', target=target)\n"
        "    heavy = [*sys.argv[1:], *(['jinja2'] if target == 'local' else [])]\n"
        "    print(target, *[name for name in heavy if name in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, *HEAVY], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["local", "docker", "k8s", "ray", "skypilot"]


def test_the_child_needs_no_site_packages() -> None:
    """What evaluates hostile text imports the engine and the standard library, nothing else."""
    text = (REPOSITORY / "compiler" / "evaluate_child.py").read_text() + (
        REPOSITORY / "compiler" / "instrument.py"
    ).read_text()
    imported = {line.split()[1] for line in text.splitlines() if line.strip().startswith(("import ", "from "))}
    assert imported <= set(sys.stdlib_module_names) | {"__future__", "_gojsonnet", "instrument", "collections.abc"}


def test_models_do_not_postpone_their_annotations() -> None:
    # It would cost a cold compile a tenth of its time (compiler/spec/__init__.py).
    files = list((REPOSITORY / "compiler" / "spec").glob("*.py"))
    assert files and not [path.name for path in files if "import annotations" in path.read_text()]
