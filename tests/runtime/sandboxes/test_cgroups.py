"""Control groups of boxes: a move holds nobody up, and what is cancelled or fails loses no group."""

import asyncio
import threading
from pathlib import Path

import pytest

from runtime.sandboxes.cgroups import Group, GroupPool
from runtime.sandboxes.state import OwnerState

LIMITS = {"memory_mib": 64, "pids": 16}


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GroupPool:
    """Folders in place of control groups; what they hold is what would be written."""
    parents = [tmp_path / "memory", tmp_path / "pids"]
    monkeypatch.setattr("runtime.sandboxes.cgroups._parents", lambda owner: parents)
    monkeypatch.setattr("runtime.sandboxes.cgroups._children", lambda pid: [])
    monkeypatch.setattr("runtime.sandboxes.cgroups.remove_cgroup", lambda folder: None)
    return GroupPool(OwnerState(tmp_path / "state"))


def slow(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """The kernel takes its time until the event is set."""
    may = threading.Event()
    real = Group.admit

    def admit(self: Group, pid: int, *, memory_mib: int, pids: int) -> None:
        assert may.wait(30)
        real(self, pid, memory_mib=memory_mib, pids=pids)

    monkeypatch.setattr(Group, "admit", admit)
    return may


def test_the_event_loop_goes_on_while_a_process_is_moved(pool: GroupPool, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        may = slow(monkeypatch)
        moving = asyncio.create_task(pool.admit(7, **LIMITS))
        for _ in range(3):
            await asyncio.sleep(0)
        assert not moving.done()
        may.set()
        group = await moving
        assert group is not None
        assert [(folder / "cgroup.procs").read_text() for folder in group.folders] == ["7\n", "7\n"]
        pool.close()

    asyncio.run(body())


def test_a_cancelled_move_ends_first_and_its_group_is_used_again(
    pool: GroupPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        may = slow(monkeypatch)
        moving = asyncio.create_task(pool.admit(7, **LIMITS))
        await asyncio.sleep(0)
        moving.cancel()
        await asyncio.sleep(0.01)
        assert not moving.done(), "the process must live until it has been moved"
        may.set()
        with pytest.raises(asyncio.CancelledError):
            await moving
        group = await pool.admit(8, **LIMITS)
        assert group is not None and {folder.name for folder in group.folders} == {"box-1"}
        pool.close()

    asyncio.run(body())


def test_a_process_that_is_gone_costs_no_group(pool: GroupPool, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        real = Group.admit

        def gone(self: Group, pid: int, *, memory_mib: int, pids: int) -> None:
            if pid == 7:
                raise ProcessLookupError(3, "no such process")
            real(self, pid, memory_mib=memory_mib, pids=pids)

        monkeypatch.setattr(Group, "admit", gone)
        with pytest.raises(OSError, match="no such process"):
            await pool.admit(7, **LIMITS)
        group = await pool.admit(8, **LIMITS)
        assert group is not None and {folder.name for folder in group.folders} == {"box-1"}
        pool.close()

    asyncio.run(body())
