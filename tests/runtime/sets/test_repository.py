"""A repository cut at its base commit: of a real clone nothing later is left, by whatever name git kept it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from pydantic import ValidationError

from runtime.task_format.published import Published
from runtime.task_format.repository import Cleaned, Unclean, cleaned
from tests.runtime.sets.repositories import SECRET, Clone, clone, git


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    return clone(tmp_path_factory.mktemp("clone"), {"answer.py": "answer = 41\n", "tool.sh": "#!/bin/sh\n"})


def published(**values: object) -> Published:
    return Published.model_validate({"set": "swe-bench", "instance": "x", "origin": "rows", **values})


def cut(image: Clone, cache: Path, bug: str = "", **values: object) -> Cleaned:
    (cache / "patch").write_text(bug)
    return cleaned(image.work, "/testbed", [image.root], published(**values), cache / "patch", cache / "cut")


def everything(folder: Path) -> bytes:
    """All names and bytes below, but for links."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())
    return b"\0".join(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes() for path in files)


def objects(work: Path) -> set[str]:
    listed = git(work, "cat-file", "--batch-check=%(objectname)", "--batch-all-objects")
    return set(listed.split())


def test_nothing_later_is_left(image: Clone, tmp_path: Path) -> None:
    before = everything(image.work)
    assert SECRET.encode() in before and image.later[0] in git(image.work, "log", "--all", "--reflog", "--format=%H")
    made = cut(image, tmp_path, base_commit=image.base)
    assert git(made.work, "log", "--all", "--reflog", "--format=%s").splitlines()[-2:] == ["Base", "First"]
    kept = objects(made.work)
    assert image.base in kept and image.before in kept and not kept & set(image.later)
    contents = [git(made.work, "cat-file", "-p", one) for one in sorted(kept)]
    assert not any(SECRET in content for content in contents)
    assert SECRET.encode() not in everything(made.work / ".git")
    for words in (["tag"], ["stash", "list"], ["remote"], ["notes", "list"], ["reflog"], ["replace", "-l"]):
        said = git(made.work, *words, check=False)
        assert image.later[0][:7] not in said and (words == ["reflog"] or not said), words
    assert [line.split()[0] for line in git(made.work, "worktree", "list").splitlines()] == [str(made.work)]
    assert set(made.hidden) == set(image.elsewhere)
    git(made.work, "fsck", "--strict")


def test_repositories_and_bundles_by_other_names(image: Clone, tmp_path: Path) -> None:
    """What lies in the work directory goes, unless the base commit has it; what lies elsewhere is hidden."""
    root = tmp_path / "image"
    subprocess.run(["cp", "-a", str(image.root), str(root)], check=True)
    work = root / "testbed"
    for name in ("backup", "deep/er/mirror.git"):
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        git(root, "clone", "-q", "--bare", str(work), str(work / name))
    (work / "cache").mkdir()
    (work / "cache" / "objects").mkdir()
    subprocess.run(
        ["cp", "-a", *map(str, (work / "backup" / "objects").iterdir()), str(work / "cache/objects")], check=True
    )
    (root / "srv").mkdir(exist_ok=True)
    for path in (work / "all.dat", work / "deep" / "all.bundle", root / "srv" / "all.bundle"):
        git(work, "bundle", "create", "-q", str(path), "--all")
    (root / "srv" / "a.bundle").write_text("a text of somebody's")
    (work / "deep" / "b.bundle").write_text("a text of somebody's")
    found = cleaned(work, "/testbed", [root], published(base_commit=image.base), tmp_path / "none", tmp_path / "cut")
    left = {str(path.relative_to(found.work)) for path in found.work.rglob("*") if ".git" not in path.parts}
    assert not left & {"backup", "deep/er/mirror.git", "cache/objects", "all.dat", "deep/all.bundle"}
    assert {"deep/b.bundle", "answer.py", "cache"} <= left
    assert "/srv/all.bundle" in found.hidden and "/srv/a.bundle" not in found.hidden
    assert SECRET.encode() not in everything(found.work / "deep")


def test_what_the_base_commit_has_stays(tmp_path: Path) -> None:
    """Tests of git's own tools have whole repositories as data."""
    inner, work = tmp_path / "inner", tmp_path / "image" / "testbed"
    inner.mkdir()
    work.mkdir(parents=True)
    git(inner, "init", "-q", "--bare", "--initial-branch=main", str(inner))
    subprocess.run(["cp", "-a", str(inner), str(work / "fixture.git")], check=True)
    (work / "fixture.git" / "refs" / "heads" / "kept").write_text("x")
    (work / "fixture.git" / "objects" / "kept").write_text("x")
    (work / "data.bundle").write_bytes(b"# v2 git bundle\n")
    git(work, "init", "-q")
    git(work, "add", "-A")
    git(work, "commit", "-q", "-m", "Base")
    found = cleaned(
        work, "/testbed", [work.parent], published(base_commit=git(work, "rev-parse", "HEAD").strip()),
        tmp_path / "none", tmp_path / "cut",
    )  # fmt: skip
    assert (found.work / "fixture.git" / "HEAD").is_file() and (found.work / "data.bundle").is_file()
    assert git(found.work, "status", "--porcelain") == ""


def test_the_repository_works_and_the_image_is_as_it_was(image: Clone, tmp_path: Path) -> None:
    was = everything(image.work)
    made = cut(image, tmp_path, base_commit=image.base)
    assert not (image.root.parent / "ran").exists(), "a command of the stranger's configuration was run"
    assert git(made.work, "status", "--porcelain").split() == ["??", ".gitattributes", "??", "vendored/"]
    (made.work / "new.py").write_text("x\n")
    git(made.work, "add", "new.py")
    git(made.work, "commit", "-q", "-m", "Work")
    git(made.work, "checkout", "-q", image.base, "--", "answer.py")
    assert everything(image.work) == was
    assert cut(image, tmp_path, base_commit=image.base).work == made.work, "made once"


def test_one_commit_where_the_base_holds_the_solution(image: Clone, tmp_path: Path) -> None:
    bug = "--- a/answer.py\n+++ b/answer.py\n@@ -1 +1 @@\n-answer = 41\n+answer = 40\n"
    made = cut(image, tmp_path, bug, history="none")
    assert (made.work / "answer.py").read_text() == "answer = 40\n"
    assert (image.work / "answer.py").read_text() == "answer = 41\n"
    assert len(git(made.work, "log", "--all", "--format=%H").split()) == 1
    assert git(made.work, "diff", "HEAD") == "" and image.base not in objects(made.work)
    assert not any("answer = 41" in git(made.work, "cat-file", "-p", one) for one in objects(made.work))


def test_a_work_tree_of_a_repository_elsewhere(image: Clone, tmp_path: Path) -> None:
    """A linked work tree is cut as well, and the folder that it was linked to is hidden."""
    root = tmp_path / "linked"
    subprocess.run(["cp", "-a", str(image.root), str(root)], check=True)
    (root / "main").mkdir()
    (root / "testbed" / ".git").rename(root / "main" / ".git")
    tree = root / "srv" / "tree"
    (tree / ".git").write_text("gitdir: /main/.git/worktrees/tree\n")
    found = cleaned(tree, "/srv/tree", [root], published(base_commit=image.base), tmp_path / "none", tmp_path / "cut")
    assert not objects(found.work) & set(image.later)
    assert "/main/.git" in found.hidden


@pytest.mark.parametrize(
    ("values", "bug", "said"),
    [
        ({"base_commit": "0" * 40}, "", "no commit 0000"),
        ({}, "--- a/answer.py\n+++ b/answer.py\n@@ -1 +1 @@\n-nothing\n+x\n", "git apply"),
        ({}, "--- a/../x\n+++ b/../x\n@@ -0,0 +1 @@\n+x\n", "git apply"),
    ],
    ids=["no base", "bug does not fit", "bug leads out"],
)
def test_what_cannot_be_cut_is_named(image: Clone, tmp_path: Path, values: dict[str, str], bug: str, said: str) -> None:
    with pytest.raises(Unclean, match=said):
        cut(image, tmp_path, bug, **values)
    assert not [path for path in (tmp_path / "cut").iterdir() if not path.name.startswith("nothing")]


def test_links_of_an_image_are_not_followed_to_this_host(image: Clone, tmp_path: Path) -> None:
    """A stranger's image would have the host's own repositories shown, or its files deleted."""
    host, tree = tmp_path / "host", tmp_path / "tree"
    subprocess.run(["cp", "-a", str(image.work), str(host)], check=True)
    (tree / "testbed" / ".git").mkdir(parents=True)
    (tree / "testbed" / ".git" / "HEAD").write_text(f"{image.base}\n")
    (tree / "testbed" / ".git" / "objects").symlink_to(host / ".git" / "objects")

    def of_tree(**values: object) -> Cleaned:
        none = tmp_path / "none"
        return cleaned(tree / "testbed", "/testbed", [tree], published(**values), none, tmp_path / "cut")

    with pytest.raises(Unclean, match="leads out of the image"):
        of_tree()
    (tree / "testbed" / ".git" / "objects").unlink()
    (tree / "testbed" / ".git" / "objects").mkdir()
    (tree / "mirror" / "refs").mkdir(parents=True)
    (tree / "mirror" / "HEAD").touch()
    (tree / "mirror" / "objects").symlink_to(host / ".git" / "objects")
    with pytest.raises(Unclean, match="has no commit"):
        of_tree()
    (tree / "testbed" / "link").symlink_to(tmp_path)
    with pytest.raises(Unclean, match="behind a link"):
        of_tree(hidden=["/testbed/link/host"])
    assert host.is_dir()


@pytest.mark.parametrize("path", ["/testbed/../../../host", "testbed/x", "/", "//x", "/testbed/", "/testbed/./x"])
def test_hidden_paths_are_whole(path: str) -> None:
    with pytest.raises(ValidationError, match="from / on"):
        published(hidden=[path])


def test_a_patch_names_its_files_in_its_heads_alone(image: Clone, tmp_path: Path) -> None:
    """A line that a patch adds may look like the head of another file, of this host's."""
    bug = "--- a/answer.py\n+++ b/answer.py\n@@ -1 +1,2 @@\n-answer = 41\n+answer = 40\n+++ b/../patch\n"
    made = cut(image, tmp_path, bug, history="none")
    assert (made.work / "answer.py").read_text() == "answer = 40\n++ b/../patch\n"
    assert git(made.work, "diff", "HEAD") == ""
