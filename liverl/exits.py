"""The one place where exceptions become exit codes and words. Knows the vocabulary of failures, not who raises them."""

from __future__ import annotations

import errno
import os
import select
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compiler.errors import SpecError
from runtime.errors import MachineError, RunError, TrialError, UserError
from runtime.launch import TRACEBACK_NOTE

DONE, INTERNAL, USER, MACHINE, RUN, INTERRUPTED = 0, 1, 2, 3, 4, 130
UNREAD = 141
"""Whoever read our output has seen enough (`| head`), as the shell counts it. Nothing is said: no one reads."""
SHOW_TRACEBACK = "LIVERL_TRACEBACK"
_LONGEST = 400
"""Letters of a name that are shown."""
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn whatever leaves the block into a message on stderr and ``SystemExit`` with the documented code."""
    try:
        yield
    except GeneratorExit:
        raise
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # click has made 1 of it
            raise SystemExit(UNREAD) from None
        raise
    except BaseException as error:
        if isinstance(error, BrokenPipeError) and _unread():
            raise SystemExit(UNREAD) from None
        if os.environ.get(SHOW_TRACEBACK) == "1":
            traceback.print_exc()
        code, message = explain(error)
        if message:
            print(message, file=sys.stderr)
        raise SystemExit(code) from None


@contextmanager
def resume_hint(command: str) -> Iterator[None]:
    """Whatever stops the block, say how to go on; the exception passes. A wrong spec stays wrong in a run that goes on:
    then there is nothing to say."""
    try:
        yield
    except (UserError, SpecError):
        raise
    except BaseException as error:
        word = "interrupted" if isinstance(error, KeyboardInterrupt) else "ended"
        print(f"{word}; go on with: {command}", file=sys.stderr)
        raise


def explain(error: BaseException) -> tuple[int, str]:
    """Exit code and text for people. Only an error that nobody foresaw gets a traceback, and that one goes to a
    file."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted"
    if isinstance(error, BaseExceptionGroup):
        # Concurrent work fails in groups; the first member that we have words for speaks for all.
        members = [explain(member) for member in error.exceptions]
        return next((member for member in members if member[0] != INTERNAL), _internal(error))
    if isinstance(error, UserError | SpecError):
        return USER, "\n".join(map(str, error.problems))
    if isinstance(error, MachineError):
        return MACHINE, f"{error}\nfix: {error.fix}"
    if isinstance(error, OSError) and error.errno in _FULL_DISK:
        where = error.filename or "the disk"
        return (
            MACHINE,
            f"{where}: {os.strerror(error.errno or 0)}\n"
            "fix: free some space (`df -h` shows what is full) and run the command again",
        )
    if isinstance(error, OSError) and error.filename and error.errno == errno.ENAMETOOLONG:
        return USER, f"{_short(error.filename)}: {os.strerror(errno.ENAMETOOLONG)}; give a shorter name"
    if isinstance(error, OSError) and error.filename and (error.errno in _UNWRITABLE or _is_no_folder(error)):
        return (
            MACHINE,
            f"{_short(error.filename)}: {os.strerror(error.errno or 0)}\n"
            "fix: name another file or folder (-o, --runs-dir, LIVERL_RUNS_DIR), or make this one yours",
        )
    if isinstance(error, RunError):
        return RUN, f"the run failed: {error}"
    if isinstance(error, TrialError):
        return RUN, f"{error.termination.value}: {error}"
    return _internal(error)


def _short(name: object) -> str:
    """A name that is too long for a file is too long for a line."""
    text = os.fsdecode(name) if isinstance(name, str | bytes) else str(name)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}…{text[-_LONGEST // 2 :]}"


def _unread() -> bool:
    """Whether the pipe that we print into has lost its reader: sockets break with the same error."""
    look = select.poll()
    look.register(1, 0)
    return any(state & select.POLLERR for _, state in look.poll(0))


def _is_no_folder(error: OSError) -> bool:
    """Whether something else (a file, a device, a link to nowhere or in a circle) stands where a folder was to be."""
    return error.errno == errno.ELOOP or (
        error.errno == errno.EEXIST and not Path(os.fsdecode(error.filename)).is_dir()
    )


def _internal(error: BaseException) -> tuple[int, str]:
    words = "".join(traceback.format_exception_only(error)).strip().splitlines()[0]
    return INTERNAL, f"internal fault: {words}\na bug: please report, with {_write_traceback(error)}"


def _write_traceback(error: BaseException) -> str:
    """The traceback's file: the one that the run already wrote, else a new one in the temporary folder."""
    for note in getattr(error, "__notes__", ()):
        if note.startswith(TRACEBACK_NOTE):
            return str(note.removeprefix(TRACEBACK_NOTE))
    text = "".join(traceback.format_exception(error))
    try:
        descriptor, name = tempfile.mkstemp(prefix="liverl-traceback-", suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(f"{sys.argv}\n{text}")
    except OSError:
        return f"this:\n{text}"
    return str(Path(name))
