"""What becomes of one group between its trials and verl: which are published, and what the ledger hears."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from runtime.agent_loop.groups import GroupRequest
from runtime.agent_loop.types import Timings, TrialKey, TrialResult
from runtime.errors import RunError
from runtime.trainer.diagnosis import diagnose
from runtime.trainer.wakeup import Bell
from tests.runtime.agent_loop.conftest import make_key
from tests.runtime.agent_loop.test_step_metrics import trial

# verl warns about its own imports.
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

ROW = {"uid": "1111-2222", "global_steps": 9}


def ended(*rewards: float) -> list[TrialResult]:
    """The later ones end first."""
    return [
        replace(trial(reward, key=make_key(index=index)), started=100.0 - index, timings=Timings(total=1.0))
        for index, reward in enumerate(rewards)
    ]


class Ledger:
    """In the ledger's place: what it hears, on which thread, and what it raises."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.heard: list[str] = []
        self.thread: int | None = None
        self._fault = fault

    def dropped(self, groups: list[str], *, step: int, reason: str) -> None:
        assert (groups, step) == (["1111-2222"], 9)
        self.heard.append(reason)
        self.thread = threading.get_ident()
        if self._fault is not None:
            raise self._fault


class Players:
    """In the players' place: ``publish`` takes the trials, ``forgotten`` are those that it may let go."""

    def __init__(self, publish: Any, *, lost: int = 0) -> None:
        self._publish, self._lost = publish, lost
        self.forgotten: list[TrialKey] = []

    async def publish(self, row: Any, results: list[TrialResult], *, partition: str) -> int:
        await self._publish(row, results, partition=partition)
        return self._lost

    async def forget(self, keys: list[TrialKey]) -> None:
        self.forgotten += keys

    def counts(self) -> dict[str, float]:
        return {"boxes": 2.0}

    def metrics(self) -> dict[str, float]:
        return {"agent_loop/workers": 2.0}

    def status(self) -> list[Any]:
        return []


def play(
    patch: pytest.MonkeyPatch,
    ledger: Ledger,
    trials: list[TrialResult] | Exception,
    *,
    fewest: int = 2,
    baseline: float | str | None = "none of it",
    write_row: Any = lambda *_: None,
) -> tuple[list[list[int]], list[list[float]]]:
    """One training group of three with spare ones. What was published of it, and what the signal gate saw."""
    from runtime.trainer import agent_loop_manager as module

    published: list[list[int]] = []
    seen: list[list[float]] = []
    task: Any = SimpleNamespace(id="t")
    request = GroupRequest(task, "train", "g", 9, 3, 1.0, uid="1111-2222", spare=2)

    async def publish(row: Any, results: list[TrialResult], *, partition: str) -> None:
        assert partition == "train"
        published.append([one.key.index for one in results])

    async def mark(uid: str, *, partition: str) -> None: ...

    async def run(request: Any) -> list[TrialResult]:
        if isinstance(trials, Exception):
            raise trials
        return trials

    async def greedy(request: Any) -> Any:
        assert (request.group, request.most, request.temperature) == ("g-greedy", 1, 0.0)
        return baseline

    patch.setattr(module, "publish_group", publish)
    patch.setattr(module, "mark_running", mark)
    patch.setattr(module, "LEDGER", ledger)
    manager: Any = object.__new__(module.LiverlAgentLoopManager)
    manager._groups, manager._players = SimpleNamespace(run=run), Players(publish)
    spawned: list[Any] = []
    manager._spawn = spawned.append
    manager._request = lambda row, *, validate: request
    manager._health = SimpleNamespace(group=lambda rewards, *, step: seen.append(list(rewards)))
    manager._greedy_baseline, manager._fewest, manager._filtered = baseline != "none of it", fewest, False
    manager._baseline, manager._write_row = greedy, write_row

    async def whole() -> None:
        await manager._group(ROW, validate=False, record=module._Step(began=0.0, open_groups=1))
        await spawned.pop()

    asyncio.run(whole())
    more = ["g-greedy"] if manager._greedy_baseline else []
    assert [one.group for one in manager._players.forgotten] == ["g"] * 5 + more, "also of those that were cut short"
    return published, seen


def test_no_more_trials_than_the_group_has_are_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """More of them would let verl pad the batch for one more optimizer step."""
    ledger = Ledger()
    assert play(monkeypatch, ledger, ended(0.0, 0.1, 0.2, 0.3, 0.4)) == ([[2, 3, 4]], [[0.2, 0.3, 0.4]])
    assert not ledger.heard


def test_what_is_not_published_is_in_the_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    few, fault, ungraded = Ledger(), Ledger(), Ledger()
    assert play(monkeypatch, few, ended(1.0)) == ([[]], [[1.0]])
    assert few.heard == ["fewer than 2 of its trials can be trained"]
    assert few.thread != threading.get_ident(), "a slow disk must not hold up the event loop"
    assert play(monkeypatch, fault, KeyError("no such task"))[0] == [[]]
    assert fault.heard == ["could not be run: KeyError: 'no such task'"]
    assert play(monkeypatch, ungraded, ended(1.0, 0.0), fewest=1, baseline=None) == ([[]], [[1.0, 0.0]])
    assert ungraded.heard == ["its greedy trial was not graded: there is nothing to compare the others with"]


def test_verl_hears_of_a_groups_end_also_when_the_ledger_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    assert play(monkeypatch, Ledger(OSError(28, "No space left on device")), ended(1.0))[0] == [[]]
    assert play(monkeypatch, Ledger(OSError(28, "No space left on device")), ValueError("x"))[0] == [[]]


def test_groups_that_their_step_does_without_are_ended_and_have_not_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that plays, and one that has not begun; those up to the one that filled the batch go on."""
    from runtime.trainer import agent_loop_manager as module

    heard: dict[str, str] = {}
    published: dict[str, int] = {}
    begun: list[str] = []
    enough, stopped = asyncio.Event(), asyncio.Event()

    async def publish(row: Any, results: list[TrialResult], *, partition: str) -> None:
        published[row["uid"]] = len(results)

    async def mark(uid: str, *, partition: str) -> None:
        if uid == "late":
            await stopped.wait()

    async def run(request: Any) -> list[TrialResult]:
        begun.append(request.uid)
        await enough.wait()
        return ended(1.0, 0.0)

    monkeypatch.setattr(module, "publish_group", publish)
    monkeypatch.setattr(module, "mark_running", mark)
    dropped = SimpleNamespace(dropped=lambda uids, *, step, reason: heard.update(dict.fromkeys(uids, reason)))
    monkeypatch.setattr(module, "LEDGER", dropped)
    manager: Any = object.__new__(module.LiverlAgentLoopManager)
    manager._groups, manager._players = SimpleNamespace(run=run), Players(publish)
    manager._spawn = lambda coroutine: coroutine.close()
    task: Any = SimpleNamespace(id="t")
    manager._request = lambda row, *, validate: GroupRequest(task, "train", "g", 9, 2, 1.0, uid=row["uid"])
    manager._health = SimpleNamespace(group=lambda rewards, *, step: None)
    manager._greedy_baseline, manager._fewest, manager._write_row = False, 2, lambda *_: None
    manager._filtered, manager._played, manager._enough = True, {}, None
    record = module._Step(began=0.0, open_groups=3)

    async def whole() -> None:
        rows = [
            {"uid": uid, "global_steps": 9, "order": order} for order, uid in enumerate(("last", "over", "late"), 4)
        ]
        groups = [asyncio.create_task(manager._group(row, validate=False, record=record)) for row in rows]
        while len(begun) < 2:
            await asyncio.sleep(0)
        manager._stop_after(9, 4)
        stopped.set()
        await asyncio.gather(*groups[1:])
        enough.set()
        await groups[0]

    asyncio.run(whole())
    assert published == {"last": 2, "over": 0, "late": 0} and begun == ["last", "over"]
    assert heard == dict.fromkeys(("over", "late"), "its step has its batch without it")
    assert [len(group) for group in record.groups] == [2] and record.open_groups == 0


def live(patch: pytest.MonkeyPatch, look: Any) -> Any:
    """A manager's thread, with ``look`` in the place of a look at the run's health: a manager without its groups."""
    from runtime.trainer import agent_loop_manager as module

    @contextlib.asynccontextmanager
    async def players(model: Any) -> Any:
        yield Players(None)

    patch.setattr(module, "_STATUS_SEC", 0.0)
    patch.setattr(module, "published", Bell())
    manager: Any = object.__new__(module.LiverlAgentLoopManager)
    manager._verl = SimpleNamespace(actor_rollout_ref=SimpleNamespace(model=SimpleNamespace(path="policy")))
    manager._open_players, manager._group_runner = players, lambda _: None
    manager._look, manager._write_status = look, lambda: None
    manager._loop, manager._failure, manager._dead = asyncio.new_event_loop(), None, None
    manager._serve(threading.Event())
    return manager, module.published


def test_an_agent_loop_that_ends_ends_the_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that answers with an error for a while ends nothing; anything else is heard of at once, not in an hour."""
    looks: list[Exception | None] = [OSError(116, "Stale file handle"), None, RuntimeError("broken")]

    def look(players: Any) -> None:
        if (fault := looks.pop(0)) is not None:
            raise fault

    manager, bell = live(monkeypatch, look)
    manager._loop.close()
    assert not looks
    with pytest.raises(RunError, match=r"^AgentLoopEnded: RuntimeError: broken$") as waits:
        bell.wait(60.0)
    assert diagnose(f"runtime.errors.RunError: {waits.value}", exit_code=1).startswith("the agent loop ended")
    with pytest.raises(RunError, match="AgentLoopEnded"):
        manager.generate_sequences({})


def test_a_row_that_cannot_be_written_holds_up_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    from runtime.trainer import agent_loop_manager as module

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "published", bell := Bell())
    assert play(monkeypatch, Ledger(), ended(1.0, 0.0), write_row=full)[0] == [[0, 1]]
    assert bell.wait(0.0), "whoever waits for the group has heard of it"


def test_the_gate_of_remax_sees_the_greedy_trial_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert play(monkeypatch, Ledger(), ended(1.0), fewest=1, baseline=0.0)[1] == [[1.0, 0.0]]


def test_what_is_asked_for_again_counts_in_the_row_of_its_step(monkeypatch: pytest.MonkeyPatch) -> None:
    from runtime.trainer import agent_loop_manager as module

    written: list[tuple[int, float]] = []
    turns: list[list[int]] = []
    begun: list[Any] = []

    async def mark(uid: str, *, partition: str) -> None: ...

    async def publish(row: Any, results: Any, *, partition: str) -> None: ...

    async def run(request: Any) -> list[TrialResult]:
        return ended(0.0, 1.0, 1.0)

    monkeypatch.setattr(module, "publish_group", publish)
    monkeypatch.setattr(module, "mark_running", mark)
    monkeypatch.setattr(module, "LEDGER", SimpleNamespace(stats=dict))
    manager: Any = object.__new__(module.LiverlAgentLoopManager)
    manager._train_size, manager._greedy_baseline, manager._fewest, manager._given_out = 3, False, 2, 0
    manager._groups = SimpleNamespace(run=run, cut_short=0, in_flight=0)
    task: Any = SimpleNamespace(id="t")
    manager._request = lambda row, *, validate: GroupRequest(task, "train", "g", 9, 3, 1.0)
    manager._health = SimpleNamespace(group=lambda rewards, *, step: None)
    manager._status = SimpleNamespace(begin=lambda *_, **__: None, write=lambda **_: None)
    manager._halt, manager._players = SimpleNamespace(why=None), Players(publish)
    rows: list[Any] = []

    def write(step: int, row: Any) -> None:
        written.append((step, row["agent_loop/trials"]))
        rows.append(row)

    manager._rows = SimpleNamespace(write=write)
    manager._steps, manager._spawn, manager._filtered = {}, begun.append, False

    async def play(step: int, groups: int) -> None:
        info = {"task": "/t", "task_set": "train"}
        given = [{"uid": f"u-{number}", "global_steps": step, "extra_info": info} for number in range(groups)]
        manager._start(given, False)
        turns.append([row["turn"] for row in given])
        while begun:
            await begun.pop()

    for step, groups in ((9, 2), (9, 1), (10, 1)):
        asyncio.run(play(step, groups))
    assert written == [(9, 6), (9, 9), (10, 3)]
    assert turns == [[0, 1], [2], [0]], "a task that a step has several times is sampled anew each time"
    assert list(manager._steps) == [(10, False)]
    assert rows[0]["sandbox/boxes"] == rows[0]["agent_loop/workers"] == 2.0
