"""What the steps before say of the next one's groups: as many are begun, also where a step is taken again."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.trainer.refills import ProbableNeed, Shares

BATCH, AT_ONCE = 8, 40


@given(st.lists(st.booleans(), min_size=400, max_size=400), st.one_of(st.none(), st.floats(0.05, 1.0)))
def test_enough_groups_are_begun_and_no_more_ahead_than_may_be(signals: list[bool], share: float | None) -> None:
    """Whatever the groups are: there is always one more to end until the batch is full."""
    need = ProbableNeed(BATCH, at_once=AT_ONCE, share=share)
    begun = BATCH + need.first()
    if share is not None:
        assert begun == max(BATCH, min(AT_ONCE, math.ceil(BATCH / share)))
    taken = ended = 0
    for ended, signal in enumerate(signals, 1):
        if taken == BATCH:
            break
        assert ended <= begun <= ended - 1 + AT_ONCE
        taken += signal
        begun += need.ended(taken=signal)
    if taken == BATCH:
        assert need.ended(taken=True) == 0, "what ends later changes nothing"
        assert need.share == BATCH / (ended - 1)


def test_a_step_that_is_taken_again_hears_what_it_heard(tmp_path: Path) -> None:
    shares = Shares(tmp_path / "data" / "shares.json")
    assert shares.before(1) is None
    heard = []
    for step, share in enumerate((0.25, 0.75, 0.5, 0.125), 1):
        heard.append(shares.before(step))
        shares.write(step, share)
    assert heard == [None, 0.25, 0.5, 0.625]
    assert [shares.before(step) for step in (1, 2, 3, 4)] == heard
    shares.write(3, 0.25)
    assert shares.before(9) == 0.5, "what came after the step that is taken again is forgotten"


@pytest.mark.parametrize("content", [b"", b"[]", b'{"1": null}', b'{"x": 1}', b'{"1": 0.0, "2": 7}', b"\xff"])
def test_a_damaged_file_is_as_none(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "shares.json"
    file.write_bytes(content)
    shares = Shares(file)
    assert shares.before(3) is None
    shares.write(3, 0.5)
    assert shares.before(4) == 0.5
