"""What is known of a build before it runs: the images that it takes, and whether it may run at all."""

import os
import subprocess
import tomllib
from pathlib import Path

import pytest

from runtime.config import Bubblewrap
from runtime.config.environment import Images
from runtime.errors import ImageError
from runtime.oci import build as room
from runtime.oci.build import build
from runtime.oci.dockerfile import buildable, stands_on
from runtime.oci.store import ImageStore
from runtime.task import load_task
from runtime.tasks.images import with_images
from tests.oci_images import busybox, image
from tests.toolbox import require_command


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("FROM debian:12 AS base\nFROM base\nCOPY --from=busybox /bin/x /x\n", ["debian:12", "busybox"]),
        ("from --platform=linux/amd64 a as b\nCOPY --from=b x y\nCOPY --from=0 x y\n", ["a"]),
        ("FROM a\nRUN echo \\\n  FROM nothing \\\n# FROM comment\n  COPY --from=nothing\n", ["a"]),
        ("FROM a\nRUN <<EOF\nFROM nothing\nEOF\nCOPY <<-'E' <<F /x\nFROM $x\n\tE\nF\nFROM b\n", ["a", "b"]),
        ("FROM a\nRUN --mount=type=bind,from=c,target=/c ls\nRUN echo --mount=from=d\n", ["a", "c"]),
        ("FROM \\\n  a\n", ["a"]),
        ("FROM scratch\n", []),
        ("ARG V=3.1 W='x'\nARG Y=${V}2\nFROM p:${V}-$W AS b\nFROM ${Z:-b}\nFROM q:$Y${V:+!}\n", ["p:3.1-x", "q:3.12!"]),
        ("# escape=`\nFROM `\n a\nRUN x\\\nFROM b\n", ["a", "b"]),
    ],
)
def test_images_that_a_dockerfile_takes(text: str, names: list[str]) -> None:
    assert stands_on(text) == names


def test_a_name_of_variables_is_refused(tmp_path: Path) -> None:
    """But one of ``ARG`` before the first stage."""
    store = ImageStore(tmp_path / "store")
    for text, line in (("FROM a\nCOPY \\\n --from=$b x y\n", 2), ("ARG v\nFROM a:$v\n", 2)):
        (tmp_path / "Dockerfile").write_text(text)
        with pytest.raises(ImageError, match=rf"Dockerfile:{line}: the image \S+ is put together of variables"):
            build(tmp_path / "Dockerfile", tmp_path, store=store, key="x", network=False, timeout_sec=1.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('FROM a\nRUN <<EOF\na\nb "c"\nEOF\n', ['RUN ["/bin/sh", "-c", "a\\nb \\"c\\"\\n"]']),
        (
            'FROM a\nSHELL ["bash", "-c"]\nRUN --mount=type=cache,target=/c <<-E\n\ta\n\tE\n',
            [
                'RUN --mount=type=cache,target=/c ["bash", "-c", "a\\n"]',
            ],
        ),
        (
            "FROM a\nRUN cat <<A >b \\\n && c\nFROM x\nA\nUSER d\n",
            [
                'RUN ["/bin/sh", "-c", "cat <<A >b   && c\\nFROM x\\nA\\n"]',
                "USER d",
            ],
        ),
        ("FROM a\nCOPY --link --chmod=755 x y\nRUN --network=default z\n", ["COPY --chmod=755 x y", "RUN z"]),
        ("# escape=`\nFROM a\nCOPY --link b `\n c\\\n", ["COPY b   c\\"]),
        (
            'FROM a AS one\nVOLUME /v\nFROM b\nVOLUME /w\nFROM One\nRUN c\nVOLUME ["/x", \\\n "/y"]\nCOPY d /v/\n',
            ["FROM b", "FROM One", "RUN c", "COPY d /v/", "VOLUME /v", 'VOLUME ["/x", \\', ' "/y"]'],
        ),
    ],
)
def test_what_an_older_builder_does_not_know_is_said_otherwise(text: str, said: list[str]) -> None:
    made = buildable(text)
    lines = made.text.splitlines()
    assert lines[-len(said) :] == said and not made.files
    assert lines[0] == text.splitlines()[0], "what directs the builder stays first"


def test_files_in_a_dockerfile(tmp_path: Path) -> None:
    made = buildable("FROM a\nCOPY --chmod=755 <<'A' <<B /w/\n$x\nA\nb\nB\n")
    assert made.text.splitlines()[1] == "COPY --chmod=755 --from=liverl-files 2/0/A 2/1/B /w/"
    assert made.files == {"2/0/A": "$x\n", "2/1/B": "b\n"}
    plain = "FROM a\n# a comment\nRUN a && \\\n# another\n  b\nVOLUME /v\n"
    assert buildable(plain).text == plain, "what every builder knows is the author's own"
    for text, why in (
        ("COPY <<A /w\n$x\nA", "variables in the file A"),
        ("COPY f <<A /w\nA", "a file that stands .* alone"),
    ):
        (tmp_path / "Dockerfile").write_text(f"FROM a\n{text}\n")
        with pytest.raises(ImageError, match=rf"Dockerfile:2: {why}"):
            build(tmp_path / "Dockerfile", tmp_path, store=ImageStore(tmp_path), key="x", network=False, timeout_sec=1)


def test_images_of_from_come_from_where_the_spec_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As images that tasks name: asked by the mirror, and without TLS only where that is said."""
    monkeypatch.setattr(room.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(os, "getuid", lambda: 0)
    found = list[dict[str, object]]()

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        if "pull" in command:
            found.append(tomllib.loads(Path(command[command.index("--registries-conf") + 1]).read_text()))
        return subprocess.CompletedProcess(command, 1, "", "no such image")

    monkeypatch.setattr(room.subprocess, "run", run)
    (tmp_path / "Dockerfile").write_text("FROM python:3\n")
    mirrors = {"docker.io": "cache.example:5000", "ghcr.io": "other.example"}
    store = ImageStore(tmp_path / "store", mirrors=mirrors, plaintext=["cache.example:5000", "127.0.0.1:1"])
    with pytest.raises(ImageError, match="no such image"):
        build(tmp_path / "Dockerfile", tmp_path, store=store, key="x", network=False, timeout_sec=1.0)
    assert found[0]["registry"] == [
        {"prefix": "127.0.0.1:1", "location": "127.0.0.1:1", "insecure": True},
        {"prefix": "cache.example:5000", "location": "cache.example:5000", "insecure": True},
        {"prefix": "ghcr.io", "location": "other.example", "insecure": False},
        {"prefix": "docker.io", "location": "cache.example:5000", "insecure": True},
    ]
    assert found[0]["unqualified-search-registries"] == ["docker.io"]


def test_nothing_is_built_without_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("task.toml", "instruction.md", "tests/test.sh", "environment/Dockerfile"):
        (tmp_path / "task" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "task" / name).write_text("FROM scratch\nRUN x\n" if name.endswith("file") else "")
    built: list[Path] = []
    monkeypatch.setattr(room, "build", lambda dockerfile, *args, **kwargs: built.append(dockerfile))
    tasks, problems = [load_task(tmp_path / "task")], list[str]()
    assert with_images(tasks, environment=Bubblewrap(), on_problem=problems.append, say=str) == []
    assert not built and len(problems) == 1 and "environment.images.build: true" in problems[0]
    allowed = Bubblewrap(images=Images(build=True))
    assert len(with_images(tasks, environment=allowed, on_problem=problems.append, say=str)) == 1
    assert built == [tmp_path / "task/environment/Dockerfile"] and len(problems) == 1


def test_builds_at_once_have_names_of_their_own_and_no_variables_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both run as far as the first's end before the second takes what it has made."""
    monkeypatch.setattr(room.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setenv("HTTPS_PROXY", "http://user:password@proxy")
    images: dict[str, str] = {}
    seen: list[tuple[str, list[str], dict[str, str]]] = []
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")

    def run(command: list[str], **kwargs: object) -> subprocess.CompletedProcess[str]:
        what = next(word for word in ("bud", "push", "rmi") if word in command)
        seen.append((what, command, kwargs["env"]))  # type: ignore[arg-type]
        if what == "bud":
            tag = command[command.index("--tag") + 1]
            images[tag] = command[-1]
            if command[-1].endswith("one"):
                build_(tmp_path / "two")
        elif what == "push":
            image([{images[command[-2]]: b""}], layout=Path(command[-1].split(":")[1]))
        else:
            del images[command[-1]]
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(room.subprocess, "run", run)
    store = ImageStore(tmp_path / "store")

    def build_(context: Path) -> None:
        made = build(tmp_path / "Dockerfile", context, store=store, key=context.name, network=False, timeout_sec=1.0)
        assert (store.layer(made.folders[0]) / str(context).lstrip("/")).is_file(), "another build's image"

    build_(tmp_path / "one")
    assert images == {} and [what for what, _, _ in seen] == ["bud", "bud", "push", "rmi", "push", "rmi"]
    for what, command, env in seen:
        assert not {"SECRET", "HTTPS_PROXY", "HOME"} & set(env)
        assert what != "bud" or {"--pid", "--net", "--kill-child"} < set(command)


def test_what_builds_keep_counts_and_is_pruned_but_not_under_a_build(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "store")
    with store.building() as root:
        root.mkdir()
        (root / "big").write_bytes(os.urandom(100_000))
    assert store.size() >= 100_000
    with store.building():
        store.prune(0)
        assert (root / "big").exists()
    store.prune(0)
    assert not root.exists() and store.size() == 0


@pytest.mark.consumers
def test_what_an_instruction_sees_of_this_machine(tmp_path: Path) -> None:
    for program, package in (("busybox", "busybox-static"), ("buildah", "buildah")):
        require_command(program, package=package)
    context = tmp_path / "context"
    for name, content in busybox().items():
        place = context / "files" / name
        if content is None:
            place.mkdir(parents=True, exist_ok=True)
        elif isinstance(content, str):
            place.symlink_to(content)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(bytes(content))  # type: ignore[arg-type]
            place.chmod(0o755)
    (tmp_path / "Dockerfile").write_text(
        "ARG FROM=scratch\nFROM ${FROM} AS base\nCOPY --link files /\nFROM base\n"
        "COPY <<'EOF' /w/copied\n$x\nEOF\n"
        "RUN cat > /w/written <<EOF && <<EOF2 cat > /w/more\nUSER nobody\nEOF\n2\nEOF2\n"
        "RUN <<EOF\n#!/bin/sh\necho script > /w/script\nEOF\n"
        "RUN ls /dev > /w/dev; ls /proc > /w/proc; env > /w/env; grep CapEff /proc/self/status > /w/cap; "
        "ls /proc/1/root > /w/root 2>&1; echo x > /dev/null\n"
        'VOLUME /w/kept\nSHELL ["/bin/busybox", "sh", "-euc"]\nRUN mkdir -p /w/kept && echo $0 $- > /w/kept/shell\n'
    )
    store = ImageStore(tmp_path / "store")
    made = build(tmp_path / "Dockerfile", context, store=store, key="x", network=False, timeout_sec=60.0)
    assert "e" in (store.tree(made, "/w") / "kept/shell").read_text(), "SHELL, and what is written to a volume"
    seen = {path.name: path.read_text() for path in store.tree(made, "/w").iterdir() if path.is_file()}
    assert (
        {"null", "urandom", "shm"}
        <= set(seen["dev"].split())
        <= {*("null", "zero", "full", "random", "urandom", "fd", "stdin", "stdout", "stderr", "shm", "pts", "mqueue")}
    )
    assert len([name for name in seen["proc"].split() if name.isdecimal()]) < 12, "other processes than the build's"
    assert not int(seen["cap"].split()[1], 16) & (1 << 18 | 1 << 27 | 1 << 21 | 1 << 19), "chroot, mknod, admin, ptrace"
    assert "denied" in seen["root"]
    words = {name: seen[name] for name in ("copied", "written", "more", "script")}
    assert words == {"copied": "$x\n", "written": "USER nobody\n", "more": "2\n", "script": "script\n"}
    assert not list((store.root / "buildah/root/vfs-images").glob("*/manifest")), "its tag is gone"
