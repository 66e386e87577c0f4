"""From a session's forest to training samples: every sampled token is trained exactly once, or accounted for elsewhere.

Knows nothing of rewards, groups or batches.
"""

from __future__ import annotations

from dataclasses import replace

from runtime.proxy.forest import Forest, Node
from runtime.proxy.types import Accounting, Sample
from runtime.rollouter.engine import Routing


def auxiliary_nodes(forest: Forest) -> set[int]:
    """Sequence numbers of side calls: conversations without tools in a session whose agent works with tools, and quota
    probes.

    A session in which no conversation has tools is plain chat: nothing but probes is auxiliary then.
    """
    with_tools = any(root.has_tools for root in forest.roots)
    more_than_probes = any(not root.side_call for root in forest.roots)
    found: set[int] = set()
    for node in forest.nodes:  # parents come before children
        if node.parent is None:
            if (with_tools and not node.has_tools) or (more_than_probes and node.side_call):
                found.add(node.seq)
        elif node.parent.seq in found:
            found.add(node.seq)
    return found


def discarded_nodes(forest: Forest) -> set[int]:
    """Replies that the agent asked for again, from the same tokens, and of which it continued another one."""
    found: set[int] = set()
    for siblings in [forest.roots, *(node.children for node in forest.nodes)]:
        continued = [node for node in siblings if node.children]
        if len(siblings) < 2 or not continued:
            continue
        for node in siblings:
            if not node.children and any(node.context_ids == other.context_ids for other in continued):
                found.add(node.seq)
    return found


def ambiguous_nodes(forest: Forest) -> set[int]:
    """Replies to the same tokens of which none was continued: nobody knows which one the agent took."""
    found: set[int] = set()
    for siblings in [forest.roots, *(node.children for node in forest.nodes)]:
        ends = [node for node in siblings if not node.children and node.delivered]
        for node in ends:
            same = [other for other in siblings if other is not node and other.context_ids == node.context_ids]
            if same and not any(other.children for other in same):
                found.add(node.seq)
    return found


def merge(forest: Forest, *, lost: int = 0) -> tuple[tuple[Sample, ...], Accounting]:
    """One sample per conversation that holds a token to train, oldest leaf first, and where all sampled tokens went.

    A token shared by several conversations is trained in the first one and is context in the others. ``lost`` counts
    tokens that the engine sampled for replies that were never committed.
    """
    auxiliary, discarded = auxiliary_nodes(forest), discarded_nodes(forest)
    trained: set[int] = set()
    samples: list[Sample] = []
    for end in _ends(forest, auxiliary | discarded):
        path = end.path()
        fresh = {node.seq for node in path if node.seq not in trained and node.trainable and node.sampled_ids}
        if not fresh:
            continue
        trained |= fresh
        samples.append(_sample(path, fresh))
    totals = {"trained": 0, "discarded": 0, "auxiliary": 0, "lost": lost}
    for node in forest.nodes:
        totals[_fate(node, auxiliary, discarded)] += len(node.sampled_ids)
    return tuple(samples), Accounting(sampled=sum(totals.values()), **totals)


def _ends(forest: Forest, left_out: set[int]) -> list[Node]:
    """The last turns of conversations: the oldest first, then, longest path first, those behind which nothing can be
    trained.

    A reply that was lost on its way, or has no usable log-probabilities, ends no conversation: the turn before it does,
    unless another path holds that. The longest first, because then the order in which siblings arrived never decides
    whether the beginning of a path becomes a sample of its own.
    """
    whole: list[Node] = []
    shortened: dict[int, Node] = {}
    for leaf in forest.leaves():
        if leaf.seq in left_out:
            continue
        end: Node | None = leaf if leaf.delivered else leaf.parent
        while end is not None and not (end.trainable and end.sampled_ids):
            end = end.parent
        if end is leaf:
            whole.append(leaf)
        elif end is not None:
            shortened[end.seq] = end
    return whole + sorted(shortened.values(), key=lambda node: -node.path_length)


def _fate(node: Node, auxiliary: set[int], discarded: set[int]) -> str:
    if node.seq in auxiliary:
        return "auxiliary"
    if node.seq in discarded:
        return "discarded"
    return "trained" if node.trainable and (node.delivered or node.children) else "lost"


def _sample(path: list[Node], fresh: set[int]) -> Sample:
    root = path[0]
    prompt_ids = root.context_ids[: root.prompt_length].tolist()
    sample = Sample(prompt_ids, [], [], [], [])
    for node in path:
        context = node.context_ids if node is not root else node.context_ids[root.prompt_length :]
        _extend_context(sample, context.tolist())
        if node.seq in fresh:
            count = len(node.sampled_ids)
            sample.response_ids.extend(node.sampled_ids)
            sample.response_mask.extend([1] * count)
            sample.response_logprobs.extend(node.logprobs)
            sample.weight_versions.extend(node.weight_versions)
        else:
            _extend_context(sample, node.sampled_ids.tolist())
    routing = _routing(path)
    return sample if routing is None else replace(sample, routed_experts=routing)


def _routing(path: list[Node]) -> Routing | None:
    """The rows of a whole path, aligned with its tokens; None when a turn came without."""
    rows: list[bytes] = []
    for node in path:
        if node.routing is None:
            return None
        rows.append(node.routing.rows)
    last = path[-1].routing
    assert last is not None
    # Nobody knows the last token's experts; a trainer masks the row of zeros out.
    return Routing(0, b"".join([*rows, bytes(last.row_bytes)]), last.shape, last.item_bytes)


def _extend_context(sample: Sample, ids: list[int]) -> None:
    sample.response_ids.extend(ids)
    sample.response_mask.extend([0] * len(ids))
    sample.response_logprobs.extend([0.0] * len(ids))
    sample.weight_versions.extend([-1] * len(ids))
