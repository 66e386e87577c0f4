"""The rooms may only import downwards: docs/architecture.md's table, pinned."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("compiler", "liverl", "runtime", "specs", "targets", "templates")

ALLOWED: dict[str, tuple[str, ...]] = {
    # What a room may import of the other rooms. A prefix allows everything below it.
    "runtime": ("runtime",),
    "compiler": ("compiler", "runtime.config", "specs", "targets", "templates"),
    "targets": ("targets", "compiler", "runtime.config", "templates"),
    "liverl": ROOMS,
    "specs": (),
    "templates": (),
}
HEAVY = ("torch", "ray", "transformers", "verl", "accelerate", "tensordict", "pandas", "pyarrow")


def _modules() -> list[Path]:
    return sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(path: Path) -> Iterator[str]:
    """Absolute names of everything that a module imports, at its top or inside functions."""
    package = _name(path) if path.stem == "__init__" else _name(path).rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _within(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


@pytest.mark.parametrize("path", _modules(), ids=_name)
def test_rooms_import_downwards_only(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    foreign = [name for name in _imports(path) if name.split(".")[0] in ROOMS]
    wrong = [name for name in foreign if not _within(name, ALLOWED[room])]
    assert not wrong, (
        f"{_name(path)} imports {', '.join(wrong)}; {room} may import {', '.join(ALLOWED[room]) or 'no room'}"
    )


def test_the_compiler_reaches_targets_through_a_registry_only() -> None:
    """Target modules are named in one place, so that a new one is one entry."""
    importing = {_name(path) for path in _modules() if path.parts[-2] != "targets" and _target_modules(path)}
    importing = {name for name in importing if name.startswith("compiler")}
    assert len(importing) <= 1, f"target modules are imported by {sorted(importing)}"


def _target_modules(path: Path) -> list[str]:
    return [name for name in _imports(path) if name.startswith("targets.") and not name.startswith("targets.base")]


def test_no_room_imports_tests_or_benchmarks() -> None:
    wrong = {
        (_name(path), name) for path in _modules() for name in _imports(path) if _within(name, ("tests", "benchmarks"))
    }
    assert not wrong


@pytest.mark.parametrize(
    "arguments", [["--help"], ["compile", "--help"], ["run", "--help"], ["status", "--help"]], ids=" ".join
)
def test_the_command_line_starts_light(arguments: list[str]) -> None:
    assert _heavy_modules_after(f"sys.argv[1:] = {arguments!r}\nmain()") == []


def test_compiling_never_imports_the_heavy_half(tmp_path: Path) -> None:
    spec = str(ROOT / "specs" / "quickstart.jsonnet")
    assert (
        _heavy_modules_after(f"sys.argv[1:] = ['compile', {spec!r}, '-o', {str(tmp_path / 'bundle')!r}]\nmain()") == []
    )
    assert (tmp_path / "bundle").is_dir()


def _heavy_modules_after(code: str) -> list[str]:
    """Which of the heavy packages a fresh interpreter has loaded after running ``code`` to its (successful) exit."""
    program = (
        "import atexit, sys\nfrom liverl.cli import main\n"
        # Some commands end the process themselves.
        f"loaded = lambda: print('LOADED', *[name for name in {HEAVY!r} if name in sys.modules], flush=True)\n"
        "atexit.register(loaded)\n"
        f"try:\n    {code.replace(chr(10), chr(10) + '    ')}\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout.rpartition("LOADED")[2].split()
