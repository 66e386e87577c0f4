"""Nothing lost: training in small that dies at any of its file operations, again and again, with and without the power,
and with a full disk on the way. Every start is a process; see ``disk`` and ``training`` beside this file."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.task import Task
from tests.faults.disk import DEAD, Disk
from tests.faults.training import Fault, Plan, Witness, check, run
from tests.runtime.agent_loop.conftest import make_task

# verl warns about its own imports.
pytestmark = [pytest.mark.deep, pytest.mark.filterwarnings("ignore")]

MOST = 250
"""Operations of a start, nearly."""
FAULTS = st.one_of(
    st.builds(Fault, at=st.integers(1, MOST)),
    st.builds(Fault, at=st.integers(1, MOST), power=st.just(True), seed=st.integers(0, 1000)),
    st.builds(Fault, full=st.tuples(st.integers(1, MOST), st.integers(1, 40))),
)
AHEAD = st.builds(
    Plan,
    ahead=st.integers(1, 2),
    staleness=st.integers(2, 4),
    save_every=st.integers(1, 2),
    keep=st.integers(1, 2),
    ungraded=st.sampled_from((0.0, 0.2)),
    slow=st.sampled_from((0.0, 0.4)),
    seed=st.integers(0, 1000),
)
SYNCHRONOUS = st.builds(
    Plan,
    ahead=st.just(0),
    save_every=st.integers(1, 2),
    ungraded=st.just(0.0),
    slow=st.just(0.4),
    filtered=st.booleans(),
    curriculum=st.booleans(),
    seed=st.integers(0, 1000),
)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[Task]:
    folder = tmp_path_factory.mktemp("tasks")
    return [make_task(folder, f"t{number}") for number in range(16)]


@settings(max_examples=40)
@given(plan=st.one_of(AHEAD, SYNCHRONOUS), faults=st.lists(FAULTS, min_size=1, max_size=3))
def test_a_group_is_trained_once_or_reported(tasks: list[Task], plan: Plan, faults: list[Fault]) -> None:
    """And in ``sync`` what is trained is what a run without a fault trains; where a disk was full, trials have no grade
    and others took their places."""
    folder = Path(tempfile.mkdtemp())
    # So few that a step may have one twice.
    tasks = tasks[:5] if plan.filtered else tasks
    try:
        witness = run(plan, faults, folder=folder / "faults", tasks=tasks)
        check(plan, witness)
        if not plan.ahead and not any(fault.full[1] for fault in faults):
            whole = run(plan, [], folder=folder / "whole", tasks=tasks)
            assert trained(witness) == trained(whole)
    finally:
        shutil.rmtree(folder)


def trained(witness: Witness) -> list[tuple[int, int, int, float]]:
    """What a run has trained, in order, whatever its groups are called."""
    return [(one["step"], one["index"], one["seed"], one["reward"]) for one in witness.end.get("trained", ())]


def test_what_must_hold_is_seen_when_it_does_not(tasks: list[Task], tmp_path: Path) -> None:
    plan = Plan(ungraded=0.0)
    witness = run(plan, [], folder=tmp_path / "whole", tasks=tasks)
    check(plan, witness)
    assert witness.starts == 1 and 100 < witness.operations[0] < MOST
    trained = witness.end["trained"]
    damages = {
        "trained twice": [*trained, trained[0]],
        "nobody knows of it": trained[1:],
        "too old": [*trained[:-1], {**trained[-1], "words": [trained[-1]["words"][0], 0]}],
        "a policy that is no more": [*trained[:-1], {**trained[-1], "words": [trained[-1]["words"][0], 99]}],
        "a step is missing": [one for one in trained if one["step"] != 2],
    }
    for said, damaged in damages.items():
        with pytest.raises(AssertionError, match=said):
            check(replace(plan, staleness=2), replace(witness, end={**witness.end, "trained": damaged}))


@pytest.mark.parametrize("power", [False, True])
def test_what_was_synced_survives_and_the_rest_may_not(tmp_path: Path, power: bool) -> None:
    """Of the injector itself."""
    seen = set()
    for seed in range(30):
        folder = tmp_path / str(seed)
        folder.mkdir()
        child = os.fork()
        if child == 0:
            Disk(folder, at=8, power=power, seed=seed).install()
            try:
                (folder / "synced").write_bytes(b"whole")  # 1, 2
                with (folder / "synced").open("rb") as stream:
                    os.fsync(stream.fileno())  # 3
                file = os.open(folder, os.O_RDONLY)
                os.fsync(file)  # 4
                (folder / "not").write_bytes(b"whole")  # 5, 6
                (folder / "not").rename(folder / "named")  # 7
                (folder / "never").write_bytes(b"whole")
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == DEAD
        left = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert left.pop("synced") == b"whole" and "never" not in left
        seen.add(tuple(left.items()))
    assert (("named", b"whole"),) in seen
    assert ((len(seen) > 3) and () in seen) if power else len(seen) == 1
