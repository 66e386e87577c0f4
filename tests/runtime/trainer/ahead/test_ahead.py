"""Processes that import ahead: what was asked for runs in one of them as it would run anywhere, and without them all
the same. Small modules stand in for verl and vLLM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from runtime.processes import start_time
from runtime.trainer.ahead import claim
from runtime.trainer.ahead.kinds import Kind
from runtime.trainer.ahead.pool import Ahead

SPAWN = """
import json, multiprocessing, os, signal, sys, time
from runtime.trainer.ahead.spawned import spawning

def work(pipe, queue, how):
    mine = open("/proc/self/environ", "rb").read().split(bytes(1))
    pipe.send({
        "its_pid": os.getpid(), "imported": "colorsys" in sys.modules, "value": os.environ.get("VALUE"),
        "name": multiprocessing.current_process().name, "marked": b"LIVERL_TEST_MARK=1" in mine,
    })
    queue.put(pipe.recv() + 1)
    if how == "fail":
        sys.exit(5)
    while how == "wait":
        time.sleep(0.1)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    queue = context.Queue()
    process = context.Process(target=work, args=(theirs, queue, sys.argv[1]), name="Engine")
    with spawning("engine"):
        process.start()
    said = ours.recv()
    ours.send(41)
    answer = queue.get()
    if sys.argv[1] == "wait":
        assert process.is_alive()
        getattr(process, sys.argv[2])()
    process.join(30)
    print(json.dumps({**said, "answer": answer, "code": process.exitcode, "pid": process.pid}))
"""


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Callable[..., Ahead]]:
    made = []

    def make(*kinds: Kind) -> Ahead:
        ahead = Ahead(tmp_path / "ahead")

        def start(command: Sequence[str]) -> subprocess.Popen[bytes]:
            environment = {**os.environ, claim.PLACE: str(tmp_path / "ahead"), "LIVERL_TEST_MARK": "1"}
            return subprocess.Popen(command, env=environment, start_new_session=True)

        ahead.prepare()
        ahead.start(kinds, start)
        made.append(ahead)
        return ahead

    yield make
    for ahead in made:
        ahead.close()


def waiting(place: Path, *, count: int = 1) -> None:
    deadline = time.monotonic() + 60
    while len(list(place.glob(f"*{claim.FREE}"))) != count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def run(tmp_path: Path, *arguments: str, **variables: str) -> dict[str, Any]:
    (tmp_path / "program.py").write_text(SPAWN)
    environment = {**os.environ, claim.PLACE: str(tmp_path / "ahead"), "PYTHONPATH": str(Path.cwd()), **variables}
    command = [sys.executable, str(tmp_path / "program.py"), *arguments]
    ended = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert ended.stdout, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def test_a_spawned_process_is_one_that_has_imported_and_its_parent_sees_no_difference(
    tmp_path: Path, pool: Callable[..., Ahead]
) -> None:
    pool(Kind("engine", 1, ["colorsys"]))
    waiting(tmp_path / "ahead")
    found = run(tmp_path, "fail", VALUE="fish")
    assert (found["imported"], found["name"], found["value"]) == (True, "Engine", "fish")
    assert found["its_pid"] != found["pid"] and found["marked"]
    assert (found["answer"], found["code"]) == (42, 5)
    # The next one finds nobody.
    found = run(tmp_path, "fail")
    assert not found["imported"] and found["its_pid"] == found["pid"] and found["code"] == 5


@pytest.mark.parametrize(("how", "code"), [("terminate", {-signal.SIGTERM, 1}), ("kill", {-signal.SIGKILL})])
def test_a_spawned_process_that_is_ended_by_its_parent_is_gone(
    tmp_path: Path, pool: Callable[..., Ahead], how: str, code: set[int]
) -> None:
    pool(Kind("engine", 1, ["colorsys"]))
    waiting(tmp_path / "ahead")
    found = run(tmp_path, "wait", how)
    assert found["imported"] and found["code"] in code
    deadline = time.monotonic() + 20
    while start_time(found["its_pid"]) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("fault", ["killed", "stopped by an import", "unsuitable", "ended unused", "never there"])
def test_where_nobody_waits_it_is_started_as_ever(tmp_path: Path, pool: Callable[..., Ahead], fault: str) -> None:
    if fault != "never there":
        ahead = pool(Kind("engine", 1, ["runtime.no_such_module" if "import" in fault else "colorsys"]))
        if "import" not in fault:
            waiting(tmp_path / "ahead")
        if fault == "killed":
            ahead.close()
        if fault == "ended unused":
            ahead.end_idle()
    found = run(tmp_path, "fail", **({"VLLM_BATCH_INVARIANT": "1"} if fault == "unsuitable" else {}))
    assert not found["imported"] and found["its_pid"] == found["pid"]
    assert (found["answer"], found["code"]) == (42, 5)
