"""Memory and process limits of boxes through control groups, version 1 or 2, where this process may make them.

A group is used for one box at a time and then again for another: making and removing groups would cost more than the
limits. It does not know what runs in them.
"""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from runtime.sandboxes.state import OwnerState, remove_cgroup

ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Group:
    """The folders (one per hierarchy) of one box's group."""

    folders: tuple[Path, ...]

    def admit(self, pid: int, *, memory_mib: int, pids: int) -> None:
        """Set the limits and move the process, its children and so its future ones in. Raises ``OSError``.

        A box that has not been given work yet has at most one child: the process of its second user.
        """
        limits = {"memory.limit_in_bytes": memory_mib << 20, "memory.max": memory_mib << 20, "pids.max": pids}
        for folder in self.folders:
            for name, value in limits.items():
                if (folder / name).exists():
                    (folder / name).write_text(f"{value}\n")
            for one in (pid, *_children(pid)):
                (folder / "cgroup.procs").write_text(f"{one}\n")

    def oom_kills(self) -> int:
        """How many processes the kernel has killed here for memory, ever."""
        for folder in self.folders:
            for name in ("memory.oom_control", "memory.events"):
                with contextlib.suppress(OSError, ValueError):
                    for line in (folder / name).read_text().splitlines():
                        key, _, value = line.partition(" ")
                        if key == "oom_kill":
                            return int(value)
        return 0


class GroupPool:
    """Groups below one folder per owner. ``memory`` and ``pids`` say which limits are really to be had.

    The kernel moves one process at a time, on the whole machine, and each move waits until every core has passed a
    quiet state (``cgroup_threadgroup_rwsem`` in ``kernel/cgroup/cgroup.c``): 9 ms a box on two cores. So a thread does
    it: on the event loop it would hold up all other trials.
    """

    def __init__(self, state: OwnerState) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cgroups")
        self._free: list[Group] = []
        self._count = 0
        wanted = _parents(state.owner)
        for parent in wanted:
            state.record_cgroup(parent)  # before it exists: a kill in between must not hide it from the next start
        self._parents = tuple(parent for parent in wanted if self._make(parent))
        self.memory = any(_has(parent, "memory") for parent in self._parents)
        self.pids = any(_has(parent, "pids") for parent in self._parents)

    async def admit(self, pid: int, *, memory_mib: int, pids: int) -> Group | None:
        """A group with the process in it (``Group.admit``), or None where there are no control groups. Raises
        ``OSError``."""
        if not self._parents:
            return None
        moved = asyncio.wrap_future(self._thread.submit(self._admit, pid, memory_mib, pids))
        try:
            return await asyncio.shield(moved)
        except asyncio.CancelledError:
            await asyncio.wait((moved,))  # before that the process may not end: its number could become another's
            if not moved.cancelled() and moved.exception() is None and (group := moved.result()) is not None:
                self.give_back(group)
            raise

    def _admit(self, pid: int, memory_mib: int, pids: int) -> Group | None:
        group = self._take()
        if group is not None:
            try:
                group.admit(pid, memory_mib=memory_mib, pids=pids)
            except OSError:
                self.give_back(group)
                raise
        return group

    def _take(self) -> Group | None:
        """A free group, or None where none can be made."""
        if self._free:
            return self._free.pop()
        self._count += 1
        folders = tuple(parent / f"box-{self._count}" for parent in self._parents)
        return Group(folders) if all(tuple(map(self._make, folders))) else None

    def give_back(self, group: Group) -> None:
        self._free.append(group)

    def close(self) -> None:
        self._thread.shutdown()
        for parent in self._parents:
            remove_cgroup(parent)

    def _make(self, folder: Path) -> bool:
        try:
            folder.mkdir()
        except OSError:
            return False
        if (folder / "cgroup.subtree_control").exists():
            with contextlib.suppress(OSError):
                (folder / "cgroup.subtree_control").write_text("+memory +pids")
        return True


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _parents(owner: str) -> list[Path]:
    """Where this process's groups may go: beside its own group in each hierarchy that has the controllers."""
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, own = line.split(":", 2)
        if controllers in ("memory", "pids"):
            found.append(ROOT / controllers / own.lstrip("/") / f"liverl-{owner}")
        elif controllers == "" and (ROOT / "cgroup.controllers").exists():
            available = (ROOT / "cgroup.controllers").read_text().split()
            if {"memory", "pids"} <= set(available):
                # Version 2 forbids groups below one that holds processes, so ours stands beside this process's own.
                found.append((ROOT / own.lstrip("/")).parent / f"liverl-{owner}")
    return found


def _has(folder: Path, controller: str) -> bool:
    if (folder / "cgroup.controllers").exists():
        return controller in (folder / "cgroup.controllers").read_text().split()
    return any(folder.glob(f"{controller}.*"))
