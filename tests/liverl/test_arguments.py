"""Every command with wrong and odd arguments, drawn by a generator from its own parameters: no bug of ours, the exit
code that the documents name, words that say what is wrong, and nothing written.

A command that is new is walked through without a word here, unless it would begin to work: then ``PLAIN`` says with
what it is called. In process: what only a real one shows (streams, interrupts, the start) is in ``test_exits.py``,
``test_unread_output.py`` and ``test_unwritable.py``.
"""

from __future__ import annotations

import io
import random
import shutil
import stat
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from liverl.cli import build_app
from liverl.exits import INTERNAL, explain
from tests.run_directories import make_run, make_tasks

CALLS = 20
"""For each command."""
PLACES = ("file", "empty", "binary", "folder", "loop", "dangling", "ü ö", "new\nline", "-dash", "broken.jsonnet")
JSON = {"list.json": "[]", "number.json": "5", "object.json": "{}", "deep.json": "[" * 5000, "torn.jsonl": '{"a": '}
RUNS = ("torn", "newer", "hollow", "locked")
"""Whose record ends in its middle, is of a later version, is all that is left, may not be read."""
VALUES = (
    *("", " ", "nope", "no/such", "/dev/null", "/proc/self/mem", "a" * 300, "a/" * 3000, "..", "/proc", "~nouser/x"),
    *(
        "-1",
        "0",
        "1e400",
        "nan",
        "inf",
        "9" * 25,
        "1.5",
        "true",
        "null",
        "{}",
        "[",
        "a=b",
        "=",
        "a[99]=1",
        "0:1",
        "1:0",
    ),
    *(
        "%s %d {x}",
        "$(id)",
        "*",
        "http://",
        "http://127.0.0.1:1",
        "http://[::1",
        "ftp://x",
        "s3://",
        "\udcff",
        "\x1b[31m",
    ),
    *(">=1", "é==1", "pip==", "docker:", "kubernetes:a:b", "-x", "a@sha256:00", "UPPER/x:y", "last", "last ", "page"),
    *PLACES,
    *JSON,
    *RUNS,
)
PLAIN: dict[str, tuple[str, ...]] = {
    "compile": ("nope",),
    "check": ("nope",),
    "plan": ("nope",),
    "run": ("nope",),
    "eval": ("nope",),
    "infer": ("nope",),
    "tasks prepare": ("nope",),
    "tasks demonstrate": ("nope", "-o", "out"),
    "explain": ("nope", "algorithm.group_size"),
    "diff": ("nope", "nope"),
    "trial": ("last", "0"),
    "replay": ("last", "0"),
    "compare": ("last", "nope"),
    "shell": ("nope",),
    "dashboard": ("--host", "256.0.0.1"),
    "proxy": ("--engine", "http://127.0.0.1:1", "--tokenizer", "nope"),
    "export page": ("nope", "-o", "out"),
    "export trajectories": ("last", "--format", "nope", "-o", "out"),
    "export model": ("last", "7", "-o", "out"),
    "images pull": ("UPPER/x:y",),
    "tasks synth": ("-n", "0", "--seed", "1", "-o", "out"),
    "tasks generate": ("nope", "-o", "out"),
    "tasks import": ("swe-bench", "--rows", "nope", "-o", "out"),
    "tasks index": ("nope", "-o", "out.parquet"),
    "tasks regrade": ("nope",),
    "tasks verify": ("nope",),
    "models add": ("no/such",),
    "init": ("--from", "nope"),
    "pull": ("nope",),
    "stop": ("nope",),
}
"""What is called, beside what is put in its place: so much that everything else is looked at, and never what works."""


OF_THE_NET = {("images", "pull"), ("models", "add")}
"""Any other name would be asked for there."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("arguments")
    run = make_run(here / "runs", steps=1, tasks=make_tasks(here / "tasks", count=1)).path
    for name in RUNS:
        shutil.copytree(run, here / name, ignore=shutil.ignore_patterns("trials", "checkpoints"))
    record = run / "run.json"
    (here / "torn" / "run.json").write_bytes(record.read_bytes()[:40])
    (here / "newer" / "run.json").write_bytes(
        record.read_bytes().replace(b'"succeeded"', b'"hibernating", "since": [1]')
    )
    for entry in (here / "hollow").iterdir():
        if entry.name != "run.json":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    for entry in (here / "locked").iterdir():
        entry.chmod(0)
    (here / "file").write_text("text\n")
    (here / "empty").touch()
    (here / "binary").write_bytes(bytes(range(256)))
    (here / "broken.jsonnet").write_text("{ name: ")
    for name in ("folder", "ü ö", "new\nline", "-dash"):
        (here / name).mkdir()
    (here / "loop").symlink_to("loop")
    (here / "dangling").symlink_to("/nowhere/x")
    for name, text in JSON.items():
        (here / name).write_text(text)
    return here


def commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    def below(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        for name, one in getattr(command, "commands", {}).items():
            yield from below(one, (*path, name))
        if not hasattr(command, "commands"):
            yield path, command

    return below(TREE, ())


def calls(path: tuple[str, ...], command: Any, rng: random.Random, count: int) -> Iterator[list[str]]:
    """No argument, too many, an option that there is not; then one or two values in the place of the plain ones."""
    plain = list(PLAIN.get(" ".join(path), ()))
    yield [] if path != ("dashboard",) else [*plain]  # which would begin to serve
    yield [*plain, "too", "many", "-words"]
    yield ["--no-such-option"]
    options = [one for one in command.params if one.param_type_name == "option" and one.name != "help"]
    free = [place for place, word in enumerate(plain) if place == 0 or not plain[place - 1].startswith("-")]
    free = [place for place in free if not plain[place].startswith("-") and path not in OF_THE_NET]
    for one in options:
        if "float" in str(one.type_descriptor.annotation):
            yield from ([*plain, f"{one.opts[0]}={value}"] for value in ("nan", "inf", "1e400"))
    for _ in range(count - 3):
        words = list(plain)
        if free and (not options or rng.random() < 0.5):
            words[rng.choice(free)] = rng.choice(VALUES)
        for one in rng.sample(options, min(len(options), rng.choice([1, 1, 2]))):
            name = max(one.opts, key=len)
            for short in one.opts:
                if short in plain:
                    name = short  # once more, and then the later counts
            flag = isinstance(one.default, bool) or one.secondary_opts
            words += (
                [name] if flag else [name, rng.choice(VALUES)] if name[:2] != "--" else [f"{name}={rng.choice(VALUES)}"]
            )
        yield words


def contents(place: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for path in place.rglob("*"):
        state = path.lstat()
        found[str(path)] = (0, 0) if stat.S_ISDIR(state.st_mode) else (state.st_size, state.st_mtime_ns)
    return {name: what for name, what in found.items() if "index.sqlite" not in name}


def check(path: tuple[str, ...], words: list[str], place: Path) -> int:
    before = contents(place)
    call, said, code = [*path, *words], io.StringIO(), 0
    try:
        # The tree of commands is made once: making it anew takes ten times what most calls do.
        with redirect_stdout(said), redirect_stderr(said):
            TREE.main(call, prog_name="liverl")
    except SystemExit as end:
        code = int(end.code or 0)
    except Exception as error:
        code, more = explain(error)
        assert code != INTERNAL, (call, more)
        said.write(more)
    assert code in (0, 2, 3, 4), (call, code, said.getvalue())
    assert "Traceback" not in said.getvalue() and "internal fault" not in said.getvalue(), (call, said.getvalue())
    assert said.getvalue().strip() or code == 0, call
    if code:
        assert contents(place) == before, (call, code, said.getvalue())
    return code


TREE = get_command(build_app())
ALL = dict(commands())


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_wrong_arguments_are_said_and_change_nothing(
    path: tuple[str, ...], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("XDG_CACHE_HOME", str(place.with_name("cache")))
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.setattr("sys.stdin", io.StringIO())
    drawn = calls(path, ALL[path], random.Random(" ".join(path)), CALLS)
    for words in map(list, dict.fromkeys(map(tuple, drawn))):
        check(path, words, place)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["init", "loop"], 3),
        (["init", "dangling"], 3),
        (["init", "/dev/null"], 3),
        (["replay", "last", "\udcff"], 2),
        (["trials", "last", "--task", "\udcff"], 0),
        (["status", "a" * 300], 2),
        (["images", "prune", "--keep-gib", "inf"], 2),
        (["dashboard", "--host", ".."], 3),
        (["runs", "--runs-dir", "file"], 2),
        (["compare", "last", "last"], 2),
    ],
    ids=lambda value: " ".join(value)[:40].encode(errors="replace").decode() if isinstance(value, list) else None,
)
def test_what_once_was_a_fault_or_a_surprise(
    words: list[str], code: int, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("XDG_CACHE_HOME", str(place.with_name("cache")))
    assert check((words[0],), words[1:], place) == code
