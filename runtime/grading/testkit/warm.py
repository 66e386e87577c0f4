"""Compiles a repository's Python files once, in a fork server, for all the test runs that are forked from it.

Compiling runs no code of the repository. A compiled file is used only for exactly the same bytes under the same name,
so an edited file is always compiled anew. It does not know which tests will run.
"""

from __future__ import annotations

import _ast
import importlib
import importlib.machinery
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType
    from typing import Any

MAX_FILES = 600
MAX_FILE_BYTES = 1 << 20
MAX_ENTRIES = 20_000
_ONLY_AST = 0x400  # ast.PyCF_ONLY_AST

_codes: dict[tuple[str, str, bytes], CodeType] = {}
_seen: set[str] = set()
_loader: Any = importlib.machinery.SourceFileLoader
_get_code = _loader.get_code


def warm(root: str, workdir: str, *, rewrite: bool) -> None:
    """Prepare for the file ``root``, or those below the folder, which will be at ``workdir`` when they are imported.

    rewrite: prepare the test files as pytest rewrites them. What the files import from elsewhere is imported now.
    """
    if root in _seen or len(_codes) > MAX_ENTRIES:
        return
    _seen.add(root)
    if os.path.isfile(root):
        root, workdir, files = os.path.dirname(root), os.path.dirname(workdir), iter([os.path.basename(root)])
    else:
        files = _python_files(root)
    own = {name.partition(".")[0] for folder in (root, f"{root}/src") for name in _listing(folder)}
    wanted: set[str] = set()
    for count, path in enumerate(files):
        if count >= MAX_FILES:
            break
        with open(f"{root}/{path}", "rb") as stream:
            source = stream.read(MAX_FILE_BYTES)
        name, inside = os.path.basename(path), f"{workdir}/{path}"
        kind = "pytest" if rewrite and _is_test_file(name) else "plain"
        if (kind, inside, source) not in _codes:
            try:
                tree: Any = compile(source, inside, "exec", _ONLY_AST, dont_inherit=True)
                wanted.update(_imports(tree))
                _codes[kind, inside, source] = _code(tree, source, inside, kind)
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                continue  # whoever imports it will hear of it
    for name in sorted(wanted):
        if name.partition(".")[0] not in own and name not in sys.modules:
            try:
                importlib.import_module(name)
            except BaseException:  # what cannot be imported here fails again where it is needed
                continue


def install(root: str) -> None:
    """Let imports from ``root`` in this process, and pytest's rewriting, use what ``warm`` has compiled.

    A ``__pycache__`` there is ignored: a stale one could stand in for an edited file of equal size and second.
    """
    prefix = root + os.sep

    def get_code(loader: Any, name: str) -> Any:
        path = loader.get_filename(name)
        return compiled(path, loader.get_data(path)) if path.startswith(prefix) else _get_code(loader, name)

    _loader.get_code = get_code
    rewriter: Any = sys.modules.get("_pytest.assertion.rewrite")
    original = getattr(rewriter, "_rewrite_test", None)
    if original is not None:

        def rewrite_test(path: Any, config: Any) -> Any:
            with open(path, "rb") as stream:
                status, source = os.fstat(stream.fileno()), stream.read()
            code = _codes.get(("pytest", str(path), source))
            return original(path, config) if code is None else (status, code)

        rewriter._rewrite_test = rewrite_test


def compiled(path: str, source: bytes) -> CodeType:
    code = _codes.get(("plain", path, source))
    return compile(source, path, "exec", dont_inherit=True) if code is None else code


def _code(tree: Any, source: bytes, path: str, kind: str) -> CodeType:
    if kind == "pytest":
        rewriter: Any = sys.modules["_pytest.assertion.rewrite"]
        rewriter.rewrite_asserts(tree, source, path)
    code: CodeType = compile(tree, path, "exec", dont_inherit=True)
    return code


def _is_test_file(name: str) -> bool:
    return name == "conftest.py" or name.startswith("test_") or name.endswith("_test.py")


def _imports(tree: Any) -> Iterator[str]:
    """Modules that the statements at the top of a file import by absolute names."""
    for statement in tree.body:
        if isinstance(statement, _ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, _ast.ImportFrom) and statement.module and not statement.level:
            yield statement.module


def _listing(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _python_files(root: str) -> Iterator[str]:
    pending = [""]
    while pending:
        folder = pending.pop()
        with os.scandir(f"{root}/{folder}") as entries:
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir(follow_symlinks=False):
                    if not entry.name.startswith("."):
                        pending.append(path)
                elif entry.name.endswith(".py") and entry.is_file(follow_symlinks=False):
                    yield path
