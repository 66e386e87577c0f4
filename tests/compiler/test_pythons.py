"""The same bytes on every Python that LiveRL supports: another interpreter, with the packages of its own, in another
working directory, locale and time zone."""

from __future__ import annotations

import os
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from compiler import compile_in_memory
from tests.compiler.golden_cases import CASES, REPOSITORY, spec_path
from tests.toolbox import python, python_tools

pytestmark = [pytest.mark.consumers, pytest.mark.timeout(1800)]

PACKAGES = ("gojsonnet", "jinja2", "orjson", "pydantic", "pyyaml", "typer", "rich")
"""What compiling imports."""
COMPILE = """
import sys
from compiler import compile_spec
assert sys.version_info[:2] == tuple(map(int, sys.argv[1].split("."))), sys.version
for case in sys.argv[2:]:
    name, spec, target = case.split("|")
    compile_spec(spec, target=target, out=f"{name}.{target}")
"""


@pytest.mark.parametrize("version", ["3.11", "3.12"])
def test_every_golden_case_has_the_same_bytes(version: str, tmp_path: Path) -> None:
    requirements = [f"{name}=={metadata.version(name)}" for name in PACKAGES]
    tools = python_tools(f"compile-{version}", *requirements, python=python(version))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))},
        "PYTHONPATH": str(REPOSITORY),
        "PYTHONHASHSEED": "11",
        "LC_ALL": "C",
        "TZ": "America/St_Johns",
    }
    cases = [f"{name}|{spec_path(name)}|{target}" for name, target in CASES]
    ended = subprocess.run(
        [str(tools / "python"), "-c", COMPILE, version, *cases],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    for name, target in CASES:
        folder = tmp_path / f"{name}.{target}"
        expected = compile_in_memory(spec_path(name), target=target).files
        found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        assert sorted(found) == sorted(expected)
        for file, text in expected.items():
            assert found[file] == text.encode(), f"{name} {target} {file}"
