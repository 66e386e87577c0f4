"""What a proxy that died had committed: every session of its journal as a trajectory, token for token.

Reads the journal alone; the process that wrote it may have been killed at any point. Knows nothing of HTTP, engines or
codecs.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.proxy.chat import ParsedReply
from runtime.proxy.forest import Forest, Node
from runtime.proxy.journal import read_journal, read_routing
from runtime.proxy.messages import ToolCall
from runtime.proxy.session import summarise
from runtime.proxy.types import Trajectory


@dataclass
class Recovered:
    """One session as the journal knows it.

    ``closed``: it ended properly. ``dangling``: requests that reached the engine and of which nothing more is known:
    the process died first, so their tokens are in nobody's accounting and the rollout is incomplete.
    """

    session_id: str
    forest: Forest = field(default_factory=Forest)
    limits: dict[str, Any] = field(default_factory=dict)
    closed: bool = False
    dangling: int = 0

    @property
    def complete(self) -> bool:
        """Whether the session may be graded and trained like any other; else mask it or run it again."""
        return self.closed and not self.dangling

    def trajectory(self) -> Trajectory:
        """As ``Session.trajectory`` gave it; whether the last replies were delivered is not known."""
        if not self.closed:
            for node in self.forest.leaves():
                node.delivered = False
        return summarise(self.session_id, self.forest)


def recover(path: Path) -> dict[str, Recovered]:
    """Sessions by id, in the order of their opening; of an id that was opened again only the last one.

    Raises ``ValueError`` naming the line's session when a turn continues one that the journal does not hold.
    """
    return recover_records(read_journal(path))


def recover_records(records: Iterable[dict[str, Any]]) -> dict[str, Recovered]:
    sessions: dict[str, Recovered] = {}
    open_requests: dict[str, set[int]] = {}
    for record in records:
        session_id = record["session"]
        if record["event"] == "opened":
            sessions[session_id] = Recovered(session_id, limits=record["limits"])
            open_requests[session_id] = set()
            continue
        session = sessions.get(session_id)
        if session is None:
            raise ValueError(f"session {session_id}: the journal does not say when it was opened")
        match record["event"]:
            case "asked":
                open_requests[session_id].add(record["request"])
            case "turn":
                session.forest.add(_node(record, session))
                open_requests[session_id].discard(record["request"])
            case "dropped":
                open_requests[session_id].discard(record["request"])
            case "closed":
                session.closed = True
        session.dangling = len(open_requests[session_id])
    return sessions


def _node(record: dict[str, Any], session: Recovered) -> Node:
    nodes = session.forest.nodes
    seq, parent = record["seq"], record["parent"]
    if seq != len(nodes) or (parent is not None and not 0 <= parent < seq):
        raise ValueError(
            f"session {session.session_id}: turn {seq} of the journal does not follow turn {len(nodes) - 1}"
        )
    above = None if parent is None else nodes[parent]
    context, sampled = array("i", record["context_ids"]), array("i", record["sampled_ids"])
    calls = tuple(ToolCall(**call) for call in record["tool_calls"])
    return Node(
        seq=seq,
        parent=above,
        head=None,
        dialect=record["dialect"],
        normalise=_no_matching,
        wire=record["messages"],
        parsed=ParsedReply(record["text"], calls, "", record["parse_status"]),
        reply_key=(),
        context_ids=context,
        sampled_ids=sampled,
        logprobs=array("d", record["logprobs"]),
        weight_versions=array("q", record["weight_versions"]),
        prompt_length=record["prompt_length"],
        path_length=(0 if above is None else above.path_length) + len(context) + len(sampled),
        closed=record["closed"],
        trainable=record["trainable"],
        has_tools=record["has_tools"],
        side_call=record["side_call"],
        finish_reason=record["finish_reason"],
        started_sec=record["started_sec"],
        finished_sec=record["finished_sec"],
        generate_sec=record["generate_sec"],
        gap_sec=record["gap_sec"],
        cached_tokens=record["cached_tokens"],
        reply_id=f"{session.session_id}-{seq}",
        routing=read_routing(record),
    )


def _no_matching(sent: Any) -> Any:
    raise AssertionError("a recovered session is read, not continued")
