"""The rooms may only import downwards: docs/architecture.md's table, pinned."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("compiler", "liverl", "runtime", "specs", "targets", "templates")

ALLOWED: dict[str, tuple[str, ...]] = {
    # What a room may import of the other rooms. A prefix allows everything below it.
    "runtime": ("runtime",),
    "compiler": ("compiler", "runtime.config", "specs", "templates"),
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


@cache
def _import_nodes(source: str) -> tuple[ast.Import | ast.ImportFrom, ...]:
    """Parsed once for all tests. Imports are statements: nothing is looked for inside of expressions."""
    found: list[ast.Import | ast.ImportFrom] = []
    blocks: list[ast.AST] = [ast.parse(source)]
    while blocks:
        for child in ast.iter_child_nodes(blocks.pop()):
            if isinstance(child, ast.Import | ast.ImportFrom):
                found.append(child)
            elif isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
                blocks.append(child)
    return tuple(found)


def _imports(path: Path) -> Iterator[str]:
    """Absolute names of everything that a module imports, at its top or inside functions."""
    package = _name(path) if path.stem == "__init__" else _name(path).rpartition(".")[0]
    for node in _import_nodes(path.read_text(encoding="utf-8")):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        else:
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _within(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_downwards_only(room: str) -> None:
    wrong = [
        f"{_name(path)} imports {name}"
        for path in (ROOT / room).rglob("*.py")
        for name in _imports(path)
        if name.split(".")[0] in ROOMS and not _within(name, ALLOWED[room])
    ]
    assert not wrong, f"{'; '.join(wrong)}; {room} may import {', '.join(ALLOWED[room]) or 'no room'}"


RUNTIME = (
    # The rooms of the runtime in their order: each may import those before it. First the ground floor.
    *(
        "errors",
        "addresses",
        "config",
        "files",
        "processes",
        "imported",
        "parts",
        "oci",
        "task_format",
        "suites",
        "task",
    ),
    "run_paths",
    "suggest",
    *("telemetry", "sandboxes", "grading", "rollouter", "proxy", "models", "scaffolds", "tasks", "report"),
    *("agent_loop", "demonstrations", "trainer"),
    "launch",
    "page",
    # Former names, for parts that others have written; no room imports them.
    "environment",
    # The wing: it may use every room, and no room imports it (runtime/parts.py names what is in it).
    "laptop",
)
"""``docs/architecture.md`` says what each is for."""


def _runtime_modules() -> list[Path]:
    """All but the package itself."""
    return sorted(path for path in (ROOT / "runtime").rglob("*.py") if path != ROOT / "runtime" / "__init__.py")


def test_every_room_of_the_runtime_has_its_place_in_the_order() -> None:
    files = [path.relative_to(ROOT / "runtime") for path in (ROOT / "runtime").rglob("*.py")]
    here = {path.parts[0].removesuffix(".py") for path in files}
    assert here - {"__init__"} == set(RUNTIME)


@pytest.mark.parametrize("room", RUNTIME)
def test_rooms_of_the_runtime_import_earlier_ones_only(room: str) -> None:
    paths = [path for path in _runtime_modules() if _room(_name(path)) == room]
    later = RUNTIME[RUNTIME.index(room) + 1 :]
    wrong = [
        f"{_name(path)} imports {name}, and {room} comes before {_room(name)}"
        for path in paths
        for name in _imports(path)
        if name.startswith("runtime.") and _room(name) in later
    ]
    assert paths and not wrong, "; ".join(wrong)


def _room(module: str) -> str:
    """``runtime.proxy.codec`` -> ``proxy``."""
    return module.split(".")[1]


def test_the_compiler_names_targets_in_one_place() -> None:
    """By a name that is imported when it is asked for, so that a new target is one entry."""
    naming = [path.stem for path in (ROOT / "compiler").rglob("*.py") if re.search(r"targets\.\w+:", path.read_text())]
    assert naming == ["registry"]


def test_there_is_no_import_circle() -> None:
    """Imports inside functions and those for types count: a circle that starts is a circle all the same."""
    chain = _circle(_modules())
    assert not chain, f"a circle of imports: {' -> '.join(chain)}"


def _circle(paths: Iterable[Path]) -> list[str]:
    """The modules of a circle among ``paths``, its first one again at the end; empty where they can be put in order."""
    sources = {_name(path): path for path in paths}
    graph = {name: sorted(_needed(path, sources) - {name}) for name, path in sources.items()}
    done: set[str] = set()

    def visit(name: str, chain: list[str]) -> list[str]:
        if name in chain:
            return [*chain[chain.index(name) :], name]
        if name not in done:
            for other in graph[name]:
                if found := visit(other, [*chain, name]):
                    return found
            done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := visit(name, []))), [])


def _needed(path: Path, modules: Collection[str]) -> set[str]:
    """Which of ``modules`` a module imports: of ``a.b.c``, the longest beginning that is one."""
    found = set()
    for name in _imports(path):
        while name and name not in modules:
            name = name.rpartition(".")[0]
        found.add(name)
    return found - {""}


def test_a_circle_is_told_with_its_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    sources = {
        "a/__init__.py": "from a.first import name",
        "a/first.py": "def later():\n    from a import second",
        "a/second.py": "import sys, a.third",
        "a/third.py": "if TYPE_CHECKING:\n    from .first import name",
        "a/fourth.py": "from a import third",
    }
    for name, text in sources.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert _circle(tmp_path.rglob("*.py")) == ["a.first", "a.second", "a.third", "a.first"]
    (tmp_path / "a/third.py").write_text("from .fifth import name")
    (tmp_path / "a/fifth.py").write_text("name = 1")
    assert _circle(tmp_path.rglob("*.py")) == []


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
