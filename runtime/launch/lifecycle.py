"""Owning a run: its record goes pending, running, and one final state, whatever ends the process. Does not know what a
run does.

The first Ctrl-C (or SIGTERM, SIGHUP) raises ``KeyboardInterrupt`` in the main thread, and the run ends in order; the
second ends everything at once. Either way the record says ``stopped`` and no process of the run survives. After ``kill
-9`` nobody can do this, so the next start does it (``tidy``)."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, Self, TypeVar

from runtime import processes
from runtime.errors import MachineError, RunError, RunHalted, UserError
from runtime.launch import TRACEBACK_NOTE
from runtime.launch.rundir import (
    BEAT_SEC,
    FINAL_STATES,
    RunDirectory,
    RunRecord,
    owned,
    owner_of,
    refuse_far_away,
)
from runtime.task_format import packed

Result = TypeVar("Result")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOP_GRACE_SEC = 20.0
_TELLING_SEC = 2.0
"""How long ``stop`` waits for the process of a run that has ended."""
INTERRUPTED_CODE = 130
TAKEN_OVER_CODE = 4


@contextmanager
def running(directory: RunDirectory, *, grace_sec: float = 5.0) -> Iterator[Interrupts]:
    """Inside the block the run is ``running`` and owned by this process; afterwards its state is final and its
    processes are gone. Whatever of it still runs at the end is asked to end, and killed after ``grace_sec``.
    """
    os.environ[processes.MARK] = str(directory.path)
    began = replace(owned(directory.read()), state="running", end="", exit_code=None, exit_cause="")
    directory.write(replace(began, ended_by_itself=False))
    with Interrupts(directory) as interrupts, _signs_of_life(directory, interrupts):
        try:
            yield interrupts
        except BaseException as error:
            interrupts.ending = True
            sweep(directory, grace_sec=grace_sec)
            _record_end(directory, error)
            raise
        else:
            interrupts.ending = True
            sweep(directory, grace_sec=grace_sec)
            directory.finish("succeeded", exit_code=0, cause="")
        finally:
            os.environ.pop(processes.MARK, None)
            packed.fold(directory.tasks)  # last: whoever waits for the end need not wait for thousands of files to go


@contextmanager
def _signs_of_life(directory: RunDirectory, interrupts: Interrupts) -> Iterator[None]:
    """Inside the block other hosts can see that this process lives. Where it was silent for too long (asleep, cut off)
    and somebody there has ended the run or goes on with it, this process ends at once."""
    done = threading.Event()
    mine = owned(directory.read())

    def beat() -> None:
        while True:
            if not interrupts.ending and _taken_over(directory, mine):
                _leave_to(directory)
            with suppress(OSError):  # a full disk: the run itself will say so
                directory.beat()
            if done.wait(BEAT_SEC):
                return

    beating = threading.Thread(target=beat, name="heartbeat", daemon=True)
    beating.start()
    try:
        yield
    finally:
        done.set()
        beating.join()


def _taken_over(directory: RunDirectory, mine: RunRecord) -> bool:
    try:
        record = directory.read()
    except UserError:
        return False  # not to be read just now
    return record.state in FINAL_STATES or owner_of(record) != owner_of(mine)


def _leave_to(directory: RunDirectory) -> None:
    """Nothing is unwound: what lies in the folder is another's now."""
    with suppress(Exception):
        record = directory.read()
        print(
            f"{directory.path}: this process gave no sign of life for a while, and the run was taken over from host "
            f"{record.host}: it ends here",
            file=sys.stderr,
            flush=True,
        )
    with suppress(Exception):
        processes.reap(directory.path)
    os._exit(TAKEN_OVER_CODE)


def tidy(directory: RunDirectory) -> bool:
    """Take care of a run that claims to go on but whose process is dead: end what it left behind and mark it failed.
    True if that was so.
    """
    record = directory.read()
    if record.state in FINAL_STATES or directory.alive:
        return False
    end = directory.last_sign()
    sweep(directory)
    silent = directory.silent_sec()
    ended = "ended without a word (killed?)"
    if not record.here:
        ended = "gave no sign of life" + (f" for {silent / 60:.0f} minutes" if silent is not None else "")
    cause = f"its process {record.pid} on {record.host or 'this host'} {ended}"
    directory.finish("failed", exit_code=4, cause=cause, end=end)
    packed.fold(directory.tasks)
    return True


def tidy_all(runs_dir: Path) -> list[RunDirectory]:
    """``tidy`` every run of this machine below ``runs_dir``; returns those that needed it. Another machine's may be
    asleep: those are left to whoever names them."""
    found = []
    for record_file in sorted(runs_dir.absolute().glob("*/*/run.json")):
        directory = RunDirectory(record_file.parent)
        with suppress(UserError):
            if directory.read().here and tidy(directory):
                found.append(directory)
    return found


def sweep(directory: RunDirectory, *, grace_sec: float = 0.0) -> int:
    """End every process of the run and remove all that it keeps outside its directory (control groups, Ray's sockets)
    and its scratch inside. Returns the number of processes ended. Harmless when there is nothing.
    """
    from runtime.sandboxes.state import reap as reap_sandboxes
    from runtime.trainer.process import clear

    ended = processes.reap(directory.path, grace_sec=grace_sec)
    reap_sandboxes(directory.path.parents[1] / ".cache" / "sandboxes")
    clear(directory.path)
    return ended


def stop(directory: RunDirectory, *, grace_sec: float = STOP_GRACE_SEC) -> str:
    """End a run from outside: SIGINT to its process, after ``grace_sec`` SIGKILL to everything of it. Returns what
    happened, in words.
    """
    record = directory.read()
    refuse_far_away(directory)
    if not directory.alive:
        left = sweep(directory)
        tidy(directory)
        return f"was not running ({directory.read().state})" + (f"; {left} left-over processes ended" if left else "")
    with suppress(ProcessLookupError):
        os.kill(record.pid, signal.SIGINT)
    deadline, ended = time.monotonic() + grace_sec, 0.0
    while time.monotonic() < deadline:
        if not processes.is_same_process(record.pid, record.pid_start):
            tidy(directory)
            return "stopped"
        if directory.read().state in FINAL_STATES:
            # Its end is written down: what still goes on tells somebody of it, and may take its time.
            ended = ended or time.monotonic()
            deadline = min(deadline, ended + _TELLING_SEC)
        time.sleep(0.1)
    if directory.read().state in FINAL_STATES:
        return "stopped"
    with suppress(ProcessLookupError):
        os.kill(record.pid, signal.SIGKILL)
    sweep(directory)
    cause = f"did not end within {grace_sec:.0f} s of SIGINT: killed"
    directory.finish("stopped", exit_code=INTERRUPTED_CODE, cause=cause)
    packed.fold(directory.tasks)
    return "killed"


def _record_end(directory: RunDirectory, error: BaseException) -> None:
    if isinstance(error, KeyboardInterrupt):
        directory.finish("stopped", exit_code=INTERRUPTED_CODE, cause="interrupted")
    elif isinstance(error, UserError | MachineError | RunError):
        code = 2 if isinstance(error, UserError) else 3 if isinstance(error, MachineError) else 4
        by_itself = isinstance(error, RunHalted)
        directory.finish("failed", exit_code=code, cause=str(error), ended_by_itself=by_itself)
    else:
        _record_fault(directory, error)


def _record_fault(directory: RunDirectory, error: BaseException) -> None:
    """An exception that nobody foresaw: keep its traceback with the run."""
    target = directory.logs / "traceback.txt"
    with suppress(OSError):
        target.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        error.add_note(f"{TRACEBACK_NOTE}{target}")
    words = "".join(traceback.format_exception_only(error)).strip().splitlines()[0]
    directory.finish("failed", exit_code=1, cause=f"internal fault: {words}")


class Interrupts:
    """The two-stage signal handler, in force inside its ``with`` block (main thread only).

    The first signal raises ``KeyboardInterrupt``, unless the run is ``ending`` already; any further one ends everything
    at once. Forked children inherit the handler but not the run: in them every signal has its default effect.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory
        self._before: dict[signal.Signals, Any] = {}
        self._count = 0
        self._owner = os.getpid()
        self._cancel: Callable[[], object] | None = None
        self.ending = False

    def __enter__(self) -> Self:
        # Under nohup a hang-up is ignored, and stays so: the run was meant to outlive its terminal. (A shell's
        # background jobs ignore SIGINT, but that is how ``stop`` asks.)
        heard = [one for one in _SIGNALS if one != signal.SIGHUP or signal.getsignal(one) != signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._handle) for number in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """``asyncio.run`` in which the first signal cancels ``work``, so that it can close what it opened, and then
        raises ``KeyboardInterrupt``: raised inside the loop it would strike whatever callback happens to run.
        """

        async def main() -> Result:
            task = asyncio.current_task()
            assert task is not None
            self._cancel = functools.partial(asyncio.get_running_loop().call_soon_threadsafe, task.cancel)
            try:
                return await work
            finally:
                self._cancel = None

        try:
            return asyncio.run(main())
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self._count += 1
        if self._count == 1:
            if self.ending:
                return
            if self._cancel is not None:
                self._cancel()
                return
            raise KeyboardInterrupt
        # The user insists, or a supervisor does: no unwinding, only what must not be left behind.
        self.ending = True
        with suppress(Exception):
            sweep(self._directory)
        with suppress(Exception):
            cause = "interrupted twice: ended at once"
            if self._directory.read().state not in FINAL_STATES:  # else it was only tidying up
                self._directory.finish("stopped", exit_code=INTERRUPTED_CODE, cause=cause)
        os._exit(INTERRUPTED_CODE)
