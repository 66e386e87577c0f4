"""Draws: exact probabilities of what was drawn from, and nothing outside it."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.rollouter.engine import SamplingParams

pytestmark = pytest.mark.torch

LOGITS = st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=12)


def reference(logits: list[float], params: SamplingParams) -> dict[int, float]:
    """Token -> probability, computed in plain Python as vLLM defines it: temperature, then top-k, then top-p."""
    if params.temperature == 0:
        scaled = logits
    else:
        scaled = [value / params.temperature for value in logits]
    ranked = sorted(range(len(scaled)), key=lambda token: (-scaled[token], token))
    if params.top_k > 0:
        ranked = ranked[: params.top_k]
    mass = {token: math.exp(scaled[token]) for token in ranked}
    total = sum(mass.values())
    kept: dict[int, float] = {}
    before = 0.0
    for token in ranked:
        if kept and before / total >= params.top_p:
            break
        kept[token] = mass[token]
        before += mass[token]
    return {token: value / sum(kept.values()) for token, value in kept.items()}


PARAMS = st.builds(
    SamplingParams,
    max_tokens=st.just(1),
    temperature=st.sampled_from([0.3, 0.7, 1.0, 1.5]),
    top_k=st.sampled_from([-1, 0, 1, 3, 50]),
    top_p=st.sampled_from([0.2, 0.5, 0.9, 1.0]),
)


@settings(deadline=None, max_examples=200)
@given(LOGITS, PARAMS, st.floats(0, 1, exclude_max=True))
def test_probability_is_that_of_the_truncated_distribution(logits, params: SamplingParams, uniform: float) -> None:
    import torch

    from runtime.laptop.engine.sampling import draw

    (token,), (logprob,) = draw(torch.tensor([logits]), [params], [uniform])
    wanted = reference(logits, params)
    near_a_threshold = any(abs(sum(list(wanted.values())[:n]) - params.top_p) < 1e-5 for n in range(len(wanted) + 1))
    if params.top_p == 1.0 or not near_a_threshold:
        # Equal logits at the cut may be kept in either order.
        assert logprob == pytest.approx(math.log(wanted.get(token, min(wanted.values()))), abs=1e-4)
    assert math.isfinite(logprob)


def test_frequencies_follow_the_distribution() -> None:
    import torch

    from runtime.laptop.engine.sampling import draw

    logits = [2.0, 1.0, 0.5, 0.0, -1.0, -4.0]
    params = SamplingParams(max_tokens=1, temperature=0.8, top_k=5, top_p=0.95)
    stream = random.Random(0)
    draws = 40_000
    tokens, _ = draw(
        torch.tensor([logits] * draws), [params] * 1 + [params] * (draws - 1), [stream.random() for _ in range(draws)]
    )
    counts = Counter(tokens)
    wanted = reference(logits, params)
    assert set(counts) == set(wanted)
    for token, probability in wanted.items():
        assert counts[token] / draws == pytest.approx(probability, abs=4 * math.sqrt(probability / draws))


def test_rows_of_different_kinds_share_a_call() -> None:
    import torch

    from runtime.laptop.engine.sampling import draw

    logits = [0.0, 3.0, 1.0]
    kinds = [SamplingParams(max_tokens=1, temperature=t, top_k=k) for t, k in ((0.0, -1), (1.0, -1), (0.5, 2))]
    together = draw(torch.tensor([logits] * 3), kinds, [0.01, 0.01, 0.01])
    alone = [draw(torch.tensor([logits]), [kind], [0.01]) for kind in kinds]
    assert together == ([ids[0] for ids, _ in alone], [logprobs[0] for _, logprobs in alone])
    assert together[0][0] == 1
    assert together[1][0] == pytest.approx(3 - math.log(sum(map(math.exp, logits))), abs=1e-6)


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
def test_the_ends_of_the_unit_interval_land_on_tokens_with_mass(uniform: float) -> None:
    import torch

    from runtime.laptop.engine.sampling import draw

    logits = torch.tensor([[-torch.inf, 1.0, 0.0, -torch.inf]])
    (token,), (logprob,) = draw(logits, [SamplingParams(max_tokens=1)], [uniform])
    assert token == (1 if uniform == 0 else 2)
    assert math.isfinite(logprob)
