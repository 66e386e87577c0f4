"""What of a repository gets into tasks: tracked files, whatever their bytes and wherever git keeps them; one bad file
never ends the command."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.task import Task, load_task
from runtime.tasks.generate.commits import commits, tree
from runtime.tasks.generate.inject import Injection
from runtime.tasks.generate.package_tasks import generate_package
from runtime.tasks.generate.sources import open_repository
from tests.runtime.tasks.conftest import PlainProvider

FILES = {
    "pkg/__init__.py": b"",
    "pkg/core.py": b"def add(a, b):\n    if a > 100:\n        return a - b\n    return a + b\n",
    "tests/test_core.py": b"from pkg.core import add\n\n\ndef test_add():\n    assert add(2, 3) == 5\n"
    b"    assert add(101, 1) == 100\n",
}
TOKEN = "ghp_secret_of_the_host"


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=x", "-c", "user.email=x@localhost", "-c", "protocol.file.allow=always")
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def repository(root: Path, files: dict[str, bytes] = FILES) -> Path:
    root.mkdir()
    git(root, "init", "-q", "-b", "main")
    for name, content in files.items():
        path = root / os.fsdecode(name.encode("utf-8", "surrogateescape"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "Import")
    return root


def generate(root: Path, out: Path, said: list[str]) -> tuple[Injection, list[Task]]:
    injection = asyncio.run(
        generate_package(
            open_repository(root),
            out=out,
            name="made-up",
            split=None,
            limit=2,
            per_kind_fraction=1.0,
            seed=0,
            split_seed=0,
            provider=PlainProvider(),
            verifier=None,
            cache=out.parent / "cache",
            workers=1,
            on_progress=said.append,
        )
    )
    return injection, [load_task(path) for path in sorted(out.iterdir())]


def test_a_worktree_with_odd_files_becomes_tasks(tmp_path: Path) -> None:
    """A worktree (.git is a file) of a repository with a latin-1 module, a name that is no UTF-8, a link, a large file
    and a name with a backslash; beside them untracked files, a token among them."""
    odd = {
        "pkg/words.py": b'# -*- coding: latin-1 -*-\nNAME = "caf\xe9"\n\n\ndef name():\n    return NAME\n',
        "data/caf\udce9.txt": b"bytes",
        "data/back\\slash.txt": b"x",
        "data/large.bin": b"x" * ((1 << 20) + 1),
        "data/café.txt": b"plain",
    }
    main = repository(tmp_path / "main", {**FILES, **odd})
    (main / "data" / "host").symlink_to("/etc/hostname")
    git(main, "add", "-A")
    git(main, "commit", "-q", "-m", "Link")
    git(main, "worktree", "add", "-q", "../worktree", "-b", "other")
    root = tmp_path / "worktree"
    (root / ".env").write_text(f"TOKEN={TOKEN}\n")
    (root / "notes.txt").write_text(TOKEN)
    (root / "pkg" / "local.py").write_text(f"TOKEN = '{TOKEN}'\n")
    said: list[str] = []
    injection, tasks = generate(root, tmp_path / "tasks", said)
    assert len(tasks) == len(injection.bugs) == 2
    for task in tasks:
        assert (task.repository / "data" / "café.txt").is_file() and (task.repository / "pkg" / "words.py").is_file()
        for path in task.path.rglob("*"):
            assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path
    named = "\n".join(said)
    for text in (
        "words.py is not in UTF-8",
        "no UTF-8",
        "slash.txt",
        "larger than 1 MiB",
        "'data/host' left out: a link",
    ):
        assert text in named, (text, named)


def test_what_a_folder_without_git_does_not_give(tmp_path: Path) -> None:
    root = tmp_path / "plain"
    for name, content in {
        **FILES,
        ".env": TOKEN.encode(),
        "sub/.netrc": b"x",
        "server.key": b"x",
        "a.txt": b"",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    assert set(open_repository(root).files) == {*FILES, "a.txt"}


def test_a_folder_of_a_repository_and_one_that_it_does_not_know(tmp_path: Path) -> None:
    whole = repository(tmp_path / "whole", {f"part/{name}": content for name, content in FILES.items()})
    (whole / "part" / "secret.txt").write_text(TOKEN)
    assert set(open_repository(whole / "part").files) == set(FILES)
    unknown = whole / "unknown"
    for name, content in FILES.items():
        (unknown / name).parent.mkdir(parents=True, exist_ok=True)
        (unknown / name).write_bytes(content)
    assert set(open_repository(unknown).files) == set(FILES)


def test_submodules(tmp_path: Path) -> None:
    library = repository(tmp_path / "library", {"lib.py": b"def twice(x):\n    return 2 * x\n"})
    main = repository(tmp_path / "main")
    git(main, "submodule", "add", "-q", str(library), "vendored")
    git(main, "commit", "-q", "-m", "Vendor")
    assert "vendored/lib.py" in open_repository(main).files
    git(tmp_path, "clone", "-q", str(main), "bare-submodule")
    assert set(open_repository(tmp_path / "bare-submodule").files) == {*FILES, ".gitmodules"}
    assert "vendored" not in tree(main, "HEAD", tmp_path / "tree", name="x").files
    inner = repository(tmp_path / "inner")
    git(main, "submodule", "add", "-q", str(inner), "pkg2")
    assert set(open_repository(main / "pkg2").files) == set(FILES), "a submodule is a repository too"


def test_a_tracked_file_that_is_gone(tmp_path: Path) -> None:
    root = repository(tmp_path / "main", {**FILES, "gone.txt": b"x"})
    (root / "gone.txt").unlink()
    assert set(open_repository(root).files) == set(FILES)


def test_trees_of_commits_are_what_git_keeps(tmp_path: Path) -> None:
    """Whatever .gitattributes says, and with names and contents of any bytes."""
    attributes = b"tests export-ignore\n*.txt text eol=crlf working-tree-encoding=UTF-16\nversion.py export-subst\n"
    files = {**FILES, ".gitattributes": attributes, "pkg/version.py": b"$Format:%H$\n", "caf\udce9.py": b"\xff\x00"}
    root = repository(tmp_path / "main", files)
    found = tree(root, "HEAD", tmp_path / "tree", name="x").files
    assert found == {name: content for name, content in files.items() if name != "caf\udce9.py"}


def test_commits_with_odd_names_are_read(tmp_path: Path) -> None:
    root = repository(tmp_path / "main")
    (root / "pkg" / "core.py").write_bytes(FILES["pkg/core.py"] + b"\n\ndef sub(a, b):\n    return a - b\n")
    (root / "tests" / "test_sub.py").write_bytes(
        b"from pkg.core import sub\n\n\ndef test_sub():\n    assert sub(2, 1) == 1\n"
    )
    (root / os.fsdecode(b"tests/test_caf\xe9.py")).write_bytes(b"# \xe9\n")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "Subtract")
    (one,) = commits(root, limit=9)
    assert set(one.changed) == {"pkg/core.py", "tests/test_sub.py", "tests/test_caf\udce9.py"}


@settings(max_examples=15, deadline=None)
@given(
    names=st.lists(
        st.binary(min_size=1, max_size=12).filter(lambda name: not set(name) & set(b"/\0") and name.strip(b". ")),
        max_size=4,
        unique=True,
    ),
    contents=st.lists(st.binary(max_size=40), min_size=4, max_size=4),
)
def test_relatives_of_odd_names_and_bytes(
    tmp_path_factory: pytest.TempPathFactory, names: list[bytes], contents: list[bytes]
) -> None:
    """Any names and bytes: the files of the package are some of them, whole, and the others are named."""
    files = {f"d/{os.fsdecode(name)}": content for name, content in zip(names, contents, strict=False)}
    root = repository(tmp_path_factory.mktemp("odd") / "main", {**FILES, **files})
    package = open_repository(root)
    for name, content in files.items():
        if name in package.files:
            assert package.files[name] == content and name.encode()
        else:
            assert name in package.left_out or name.endswith((".pyc", ".so", ".pyd"))
    assert package.digest
