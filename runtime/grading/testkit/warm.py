"""Code of a repository's Python files that was compiled once, for all the test runs in boxes of that repository.

Compiling runs no code of the repository. It happens in a process of its own, which leaves one read-only file per
folder (``compile_tree``); a box maps the files of its own repository and of no other (``attach``). An entry is used
only for exactly the same bytes under the same name, so an edited file is always compiled anew. It does not know which
tests will run.
"""

from __future__ import annotations

import importlib.machinery
import marshal
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType
    from typing import Any

MAX_FILES = 600
MAX_FILE_BYTES = 1 << 20
MAX_BYTES = 64 << 20
_PREFIX = 8
_ONLY_AST = 0x400  # ast.PyCF_ONLY_AST

_attached: list[tuple[dict[tuple[str, str, bytes], tuple[int, int]], Any]] = []
_loader: Any = importlib.machinery.SourceFileLoader
_get_code = _loader.get_code


def compile_tree(root: str, workdir: str, *, rewrite: bool) -> bytes:
    """The file ``root``, or those below the folder, as they are imported when they lie at ``workdir``.

    rewrite: test files as pytest rewrites them. The result is what ``attach`` reads: an index and marshalled code.
    """
    if os.path.isfile(root):
        root, workdir, files = os.path.dirname(root), os.path.dirname(workdir), iter([os.path.basename(root)])
    else:
        files = _python_files(root)
    index: dict[tuple[str, str, bytes], tuple[int, int]] = {}
    content = bytearray()
    for count, path in enumerate(files):
        if count >= MAX_FILES or len(content) > MAX_BYTES:
            break
        with open(f"{root}/{path}", "rb") as stream:
            source = stream.read(MAX_FILE_BYTES)
        name, inside = os.path.basename(path), f"{workdir}/{path}"
        kind = "pytest" if rewrite and _is_test_file(name) else "plain"
        try:
            code = marshal.dumps(_code(source, inside, kind))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue  # whoever imports it will hear of it
        index[kind, inside, _digest(source)] = (len(content), len(code))
        content += code
    head = marshal.dumps(index)
    return len(head).to_bytes(_PREFIX, "big") + head + bytes(content)


def attach(fd: int) -> None:
    """Use the file ``fd`` in this process and those that it forks. Only for files that ``compile_tree`` has made and
    nobody can write to any more.
    """
    import mmap

    size = os.fstat(fd).st_size
    if size <= _PREFIX:
        return
    content = mmap.mmap(fd, size, prot=mmap.PROT_READ)
    start = _PREFIX + int.from_bytes(content[:_PREFIX], "big")
    index = marshal.loads(content[_PREFIX:start])
    _attached.append(({key: (start + at, length) for key, (at, length) in index.items()}, content))


def install(root: str) -> None:
    """Let imports from ``root`` in this process, and pytest's rewriting, use what is attached.

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
            code = _find("pytest", str(path), source)
            return original(path, config) if code is None else (status, code)

        rewriter._rewrite_test = rewrite_test


def compiled(path: str, source: bytes) -> CodeType:
    code = _find("plain", path, source)
    return compile(source, path, "exec", dont_inherit=True) if code is None else code


def _find(kind: str, path: str, source: bytes) -> CodeType | None:
    if not _attached:
        return None
    key = (kind, path, _digest(source))
    for index, content in _attached:
        place = index.get(key)
        if place is not None:
            code: CodeType = marshal.loads(content[place[0] : place[0] + place[1]])
            return code
    return None


def _digest(source: bytes) -> bytes:
    import hashlib  # costs more than all else here, and is of use only where something is attached

    return hashlib.sha256(source).digest()


def _code(source: bytes, path: str, kind: str) -> CodeType:
    if kind == "pytest":
        tree: Any = compile(source, path, "exec", _ONLY_AST, dont_inherit=True)
        rewriter: Any = sys.modules["_pytest.assertion.rewrite"]
        rewriter.rewrite_asserts(tree, source, path)
        code: CodeType = compile(tree, path, "exec", dont_inherit=True)
        return code
    return compile(source, path, "exec", dont_inherit=True)


def _is_test_file(name: str) -> bool:
    return name == "conftest.py" or name.startswith("test_") or name.endswith("_test.py")


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
