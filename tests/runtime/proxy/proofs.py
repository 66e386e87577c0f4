"""The six invariants of a session, proved against what its engine saw and gave (reference: docs/proxy.md)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from runtime.proxy.forest import Forest, Node
from runtime.proxy.samples import merge
from runtime.proxy.types import Sample, Trajectory
from tests.runtime.proxy.scripted_engine import Call


def path_ids(node: Node) -> list[int]:
    return [token for each in node.path() for part in (each.context_ids, each.sampled_ids) for token in part]


def engine_saw_the_path(node: Node, calls: Sequence[Call]) -> None:
    """I1: a turn's path is, token for token, what the engine was given and what it sampled.

    Found by the log-probabilities, of which the scripted engine gives every token its own.
    """
    whole, count = path_ids(node), len(node.sampled_ids)
    start = len(whole) - count
    position = 0
    while position < count:
        first = [call for call in calls if call.generation is not None and _begins(call, node, position)]
        matching = [call for call in first if call.prompt_ids == whole[: start + position]]
        assert matching, f"no call of the engine had the prompt of turn {node.seq}"
        assert matching[0].generation is not None
        given = list(matching[0].generation.token_ids)[: count - position]
        assert whole[start + position : start + position + len(given)] == given
        position += len(given)


def _begins(call: Call, node: Node, position: int) -> bool:
    assert call.generation is not None
    if not len(call.generation.token_ids):
        return False
    if not node.trainable:  # its log-probabilities were not usable
        return call.generation.token_ids[0] == node.sampled_ids[position]
    return call.generation.logprobs[0] == node.logprobs[position]


def samples_are_sound(samples: Sequence[Sample], forest: Forest) -> list[float]:
    """I1 to I4 for what a session emits. Returns the log-probabilities (the names) of all trained tokens."""
    paths = {tuple(path_ids(node)) for node in forest.nodes}
    trained: list[float] = []
    for sample in samples:
        count = len(sample.response_ids)
        assert len(sample.response_mask) == len(sample.response_logprobs) == len(sample.weight_versions) == count
        assert tuple(sample.prompt_ids + sample.response_ids) in paths
        for mask, logprob, version in zip(
            sample.response_mask, sample.response_logprobs, sample.weight_versions, strict=True
        ):
            if mask:
                assert version >= 0
                trained.append(logprob)
            else:
                assert (logprob, version) == (0.0, -1)
    assert len(trained) == len(set(trained)), "a token is trained twice"
    return trained


def tokens_add_up(trajectory: Trajectory, trained: Sequence[float], sampled: int) -> None:
    """I6: every token that the engine gave is accounted for once."""
    accounting = trajectory.accounting
    assert accounting.trained == len(trained)
    assert accounting.sampled == sampled
    assert accounting.trained + accounting.discarded + accounting.auxiliary + accounting.lost == sampled


def order_does_not_matter(forest: Forest, seed: int) -> None:
    """I5: the same turns in another order of arrival give the same conversations, trained tokens and accounting.

    Which of several conversations trains what they share is the oldest's; that alone follows the order.
    """
    ours, theirs = merge(forest), merge(_rearranged(forest, random.Random(seed)))
    assert ours[1] == theirs[1]
    for of in (_conversations, _trained):
        assert of(ours[0]) == of(theirs[0])


def _conversations(samples: Sequence[Sample]) -> list[list[int]]:
    return sorted(sample.prompt_ids + sample.response_ids for sample in samples)


def _trained(samples: Sequence[Sample]) -> list[tuple[float, int]]:
    return sorted(
        (logprob, token)
        for sample in samples
        for mask, logprob, token in zip(
            sample.response_mask, sample.response_logprobs, sample.response_ids, strict=True
        )
        if mask
    )


def _rearranged(forest: Forest, chance: random.Random) -> Forest:
    made: dict[int, Node] = {}
    other = Forest()
    waiting = list(forest.nodes)
    while waiting:
        ready = [node for node in waiting if node.parent is None or node.parent.seq in made]
        node = chance.choice(ready)
        waiting.remove(node)
        parent = None if node.parent is None else made[node.parent.seq]
        made[node.seq] = replace(node, seq=len(made), parent=parent, children=[])
        other.add(made[node.seq])
    return other
