"""Which processes belong to a run, whether they live, and ending them. Linux; reads ``/proc``. Does not know what a run
is for.

Every process of a run inherits ``LIVERL_RUN_DIR`` in its environment, through Ray, bubblewrap's parent and all other
helpers, whoever is its parent by now. So what a killed run left behind is found by that mark, not by process names or
parents."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

MARK = "LIVERL_RUN_DIR"
_RESOURCE_TRACKER = b"multiprocessing.resource_tracker"


def start_time(pid: int) -> int | None:
    """Start of a process in clock ticks since boot, or None when there is no such (living) process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    # After the parenthesised name come state (field 3 of proc(5)) ... starttime (field 22). Zombies are dead to us.
    return None if fields[0] in "ZX" else int(fields[19])


def this_process() -> tuple[int, int]:
    start = start_time(os.getpid())
    assert start is not None, "/proc is not mounted"
    return os.getpid(), start


def kernel() -> str:
    """Which ``/proc`` a pid of this process belongs to: the boot of the machine and the namespace of its pids."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot} {Path('/proc/self/ns/pid').stat().st_ino}"


def is_same_process(pid: int, start: int) -> bool:
    """Whether ``pid`` is alive and is the process that started then, not a later one that got the same number."""
    return pid > 0 and start_time(pid) == start


def marked(run_dir: Path, also: Mapping[str, str] | None = None) -> list[int]:
    """Processes (not this one, nor its ancestors) whose environment names this run directory, and has the variables
    ``also``."""
    wanted = {f"{name}={value}".encode() for name, value in {MARK: str(run_dir), **(also or {})}.items()}
    spared = _ancestors()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in spared:
            continue
        try:
            environment = (entry / "environ").read_bytes()
            is_own_tracker = _RESOURCE_TRACKER in (entry / "cmdline").read_bytes() and _parent(entry) == os.getpid()
        except OSError:
            continue
        # Python's tracker of named semaphores ends with this process, and must outlive them.
        if is_own_tracker:
            continue
        if wanted <= set(environment.split(b"\0")) and start_time(int(entry.name)) is not None:
            found.append(int(entry.name))
    return sorted(found)


def reap(run_dir: Path, *, grace_sec: float = 0.0, also: Mapping[str, str] | None = None) -> int:
    """End every process marked with this run directory (and ``also``): SIGTERM, then after ``grace_sec`` SIGKILL.
    Returns how many there were.

    Repeats until none is left, because a dying helper may start or reveal others; gives up after ten seconds. A process
    that dies loses its mark before it gives its devices back: who was seen once is waited for.
    """
    seen: dict[int, int] = {}
    started = time.monotonic()
    while time.monotonic() - started < grace_sec + 10.0:
        found = marked(run_dir, also)
        waiting = sorted({*found, *(pid for pid, start in seen.items() if is_same_process(pid, start))})
        if not waiting:
            break
        hard = time.monotonic() - started >= grace_sec
        for pid in waiting:
            if hard or pid not in seen:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL if hard else signal.SIGTERM)
        seen.update((pid, start) for pid in found if (start := start_time(pid)) is not None)
        time.sleep(0.05)
    return len(seen)


def _ancestors() -> set[int]:
    spared, pid = set(), os.getpid()
    while pid > 0:
        spared.add(pid)
        try:
            pid = _parent(Path(f"/proc/{pid}"))
        except OSError:
            break
    return spared


def _parent(entry: Path) -> int:
    """Parent of the process with this folder in ``/proc``. Raises ``OSError`` when it is gone."""
    status = (entry / "stat").read_text(encoding="utf-8", errors="replace")
    return int(status.rpartition(")")[2].split()[1])
