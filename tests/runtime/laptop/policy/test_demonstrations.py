"""Demonstrations keep to the tools' rules and to their budgets; baselines are exact expectations."""

import random
from itertools import pairwise, permutations

import pytest

from runtime.laptop.policy.baselines import at_random, draws, failing_first, in_order
from runtime.laptop.policy.demonstrations import Ground, walk
from runtime.laptop.policy.memory import MemoryWorkspace
from runtime.laptop.synth.repository import build
from runtime.laptop.tools.debugger import SOLVED, Debugger
from runtime.laptop.tools.survey import survey


def ground(number: int) -> Ground:
    return Ground("Repair it.", survey(MemoryWorkspace.of(build("demonstrations", seed=9, number=number))))


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("informed", [0.0, 1.0])
def test_a_walk_is_what_the_tools_would_have_answered(number: int, informed: float) -> None:
    rng = random.Random(number)
    for _ in range(5):
        parts = walk(ground(number), rng, informed=informed, max_edits=3, max_turns=20)
        debugger = Debugger(MemoryWorkspace.of(build("demonstrations", seed=9, number=number)), max_edits=3)
        for (role, text), (next_role, answer) in pairwise(parts[1:]):
            if role == "assistant":
                assert next_role == "tool"
                assert debugger.call(text.removeprefix("<call>")) == answer
        assert debugger.edits <= 3
        assert debugger.solved == (parts[-1] == ("assistant", "<call>submit"))
        assert sum(role == "assistant" for role, _ in parts) <= 20
        if informed:
            assert debugger.solved
            assert debugger.edits == 1
            assert ("tool", SOLVED) in parts


def test_expectations_equal_enumeration() -> None:
    stops = [
        {"place": ["m.py", 3], "text": "", "repairs": {"flip": False, "widen": True}},
        {"place": ["m.py", 1], "text": "", "repairs": {"raise": False}},
    ]
    made = {"failure": "", "stops": stops, "others": [["m.py", 0, "flip"], ["m.py", 9, "swap"]]}
    inside = [False, True, False]
    everything = [*inside, False, False]
    for edits in (1, 2, 3):
        for menu, found in ((everything, at_random(made, edits)), (inside, failing_first(made, edits))):
            orders = list(permutations(range(len(menu))))
            exact = sum(any(menu[at] for at in order[:edits]) for order in orders) / len(orders)
            assert found == pytest.approx(exact)
    # In order: line 0, line 1, then flip and widen of line 3.
    assert [in_order(made, edits) for edits in (1, 2, 3, 4)] == [0.0, 0.0, 0.0, 1.0]


def test_draws_at_the_edges() -> None:
    assert draws(0, 0, 3) == 0.0
    assert draws(2, 2, 3) == 1.0
