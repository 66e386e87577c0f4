"""Whatever ends a run, its record says so and no process of it survives. Real processes, real signals."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from runtime import processes
from runtime.errors import RunError, RunHalted
from runtime.launch import lifecycle, rundir
from runtime.launch.rundir import RunDirectory

ROOT = Path(__file__).parents[3]

# A run whose work is one helper that detaches into its own session and refuses SIGTERM: the worst kind.
RUN = """
import subprocess, sys, time
from pathlib import Path
from runtime.launch import lifecycle, rundir
directory = rundir.create(Path(sys.argv[1]), experiment="x", target="local")
helper = '''
import signal, time
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
print("up", flush=True)
time.sleep(600)
'''
with lifecycle.running(directory, grace_sec=0.2):
    child = subprocess.Popen([sys.executable, "-c", helper], stdout=subprocess.PIPE, start_new_session=True)
    child.stdout.readline()
    try:
        print(directory.path, flush=True)
        time.sleep(600)
    finally:
        if len(sys.argv) > 2:
            time.sleep(600)  # a shutdown that hangs
"""


LISTENING = ("env", "--default-signal=HUP")
"""The tests themselves may run under nohup."""


def _start(
    runs_dir: Path, *more: str, under: tuple[str, ...] = LISTENING
) -> tuple[subprocess.Popen[str], RunDirectory]:
    process = subprocess.Popen(
        [*under, sys.executable, "-c", RUN, str(runs_dir), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    directory = RunDirectory(Path(process.stdout.readline().strip()))
    process.stdout.close()
    assert len(processes.marked(directory.path)) == 1
    return process, directory


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_signal_stops_in_order(tmp_path: Path, number: signal.Signals) -> None:
    process, directory = _start(tmp_path)
    process.send_signal(number)
    process.wait(20)
    assert directory.read().state == "stopped" and directory.read().exit_code == 130
    assert processes.marked(directory.path) == []


def test_a_run_under_nohup_outlives_its_terminal(tmp_path: Path) -> None:
    process, directory = _start(tmp_path, under=("nohup",))
    process.send_signal(signal.SIGHUP)
    assert lifecycle.stop(directory, grace_sec=20) == "stopped"  # so it was still there
    process.wait()


def test_a_second_ctrl_c_ends_a_shutdown_that_hangs(tmp_path: Path) -> None:
    process, directory = _start(tmp_path, "hang")
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert directory.read().state == "stopped" and "twice" in directory.read().exit_cause
    assert processes.marked(directory.path) == []


def test_after_kill_9_the_next_start_cleans_up(tmp_path: Path) -> None:
    process, directory = _start(tmp_path)
    process.kill()
    process.wait()
    assert directory.read().state == "running" and len(processes.marked(directory.path)) == 1
    assert lifecycle.tidy_all(tmp_path) == [directory]
    assert directory.read().state == "failed" and "killed" in directory.read().exit_cause
    assert processes.marked(directory.path) == []
    assert lifecycle.tidy_all(tmp_path) == []


def test_stop_from_outside(tmp_path: Path) -> None:
    process, directory = _start(tmp_path)
    assert lifecycle.stop(directory, grace_sec=20) == "stopped"
    process.wait()
    assert directory.read().state == "stopped"
    assert lifecycle.stop(directory).startswith("was not running")


def test_stop_kills_a_run_that_does_not_listen(tmp_path: Path) -> None:
    process, directory = _start(tmp_path, "hang")
    assert lifecycle.stop(directory, grace_sec=0.3) == "killed"
    process.wait()
    assert directory.read().state == "stopped"
    assert processes.marked(directory.path) == []


def test_stop_leaves_alone_what_only_tells_of_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = rundir.create(tmp_path, experiment="x", target="local")
    with subprocess.Popen(["sh", "-c", "trap '' INT; echo up; read line"], stdin=-1, stdout=-1) as process:
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        start = processes.start_time(process.pid) or 0
        directory.write(replace(directory.read(), state="running", pid=process.pid, pid_start=start))
        monkeypatch.setattr(lifecycle, "_TELLING_SEC", 0.0)
        monkeypatch.setattr(
            lifecycle.time, "sleep", lambda _: directory.finish("stopped", exit_code=130, cause="interrupted")
        )
        assert lifecycle.stop(directory) == "stopped"
        assert process.poll() is None and directory.read().exit_cause == "interrupted"


def test_a_failed_run_says_why(tmp_path: Path) -> None:
    directory = rundir.create(tmp_path, experiment="x", target="local")
    with pytest.raises(RunError), lifecycle.running(directory):
        raise RunError("the trainer ended with exit code 1")
    assert (directory.read().state, directory.read().exit_code) == ("failed", 4)
    assert "trainer" in directory.read().exit_cause and not directory.read().ended_by_itself
    with pytest.raises(RunError), lifecycle.running(directory):
        raise RunHalted("nothing to learn from")
    assert directory.read().ended_by_itself and directory.read().exit_code == 4
    with lifecycle.running(directory):
        assert not directory.read().ended_by_itself, "somebody goes on all the same"


def test_an_unforeseen_fault_leaves_its_traceback_with_the_run(tmp_path: Path) -> None:
    directory = rundir.create(tmp_path, experiment="x", target="local")
    with pytest.raises(ZeroDivisionError) as caught, lifecycle.running(directory):
        raise ZeroDivisionError("surprise")
    assert (directory.read().state, directory.read().exit_code) == ("failed", 1)
    assert "surprise" in (directory.logs / "traceback.txt").read_text()
    assert str(directory.logs / "traceback.txt") in caught.value.__notes__[0]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_good_end(tmp_path: Path) -> None:
    directory = rundir.create(tmp_path, experiment="x", target="local")
    with lifecycle.running(directory):
        assert directory.read().state == "running" and directory.read().pid == os.getpid()
        assert os.environ[processes.MARK] == str(directory.path)
    assert (directory.read().state, directory.read().exit_code) == ("succeeded", 0)
    assert processes.MARK not in os.environ


def test_a_signal_lets_asynchronous_work_close_what_it_opened(tmp_path: Path) -> None:
    directory = rundir.create(tmp_path, experiment="x", target="local")
    closed = []

    async def work() -> None:
        asyncio.get_running_loop().call_later(0.1, os.kill, os.getpid(), signal.SIGINT)
        try:
            await asyncio.sleep(30)
        finally:
            await asyncio.sleep(0.01)
            closed.append(True)

    with pytest.raises(KeyboardInterrupt), lifecycle.running(directory) as interrupts:
        interrupts.run(work())
    assert closed == [True]
    assert directory.read().state == "stopped"


def test_forked_children_do_not_speak_for_the_run(tmp_path: Path) -> None:
    directory = rundir.create(tmp_path, experiment="x", target="local")
    with lifecycle.running(directory):
        ready, say = os.pipe()
        child = os.fork()
        if child == 0:
            # A signal that comes before the interpreter has settled after a fork would be lost.
            os.write(say, b"1")
            time.sleep(30)
            os._exit(0)
        os.read(ready, 1)
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        os.close(ready)
        os.close(say)
        assert directory.read().state == "running"
    assert directory.read().state == "succeeded"


def test_a_pid_that_was_given_to_another_process_is_not_the_run() -> None:
    pid, start = processes.this_process()
    assert processes.is_same_process(pid, start)
    assert not processes.is_same_process(pid, start - 1)
    assert not processes.is_same_process(0, start)


def test_a_process_that_loses_its_mark_while_it_dies_is_waited_for(tmp_path: Path) -> None:
    """As one that holds a GPU: the kernel takes its memory map, and with it its environment, before its devices."""
    code = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: os.execve('/bin/sleep', ['sleep', '0.5'], {}))\n"
        "print('ready', flush=True)\ntime.sleep(60)"
    )
    environment = {**os.environ, processes.MARK: str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline()
        assert processes.marked(tmp_path) == [child.pid]
        assert processes.reap(tmp_path, grace_sec=5.0) == 1
        assert child.poll() == 0, "it came back before the process had ended"
