"""A session's conversations as an append-only forest: where a request attaches, and what each node adds in tokens.

Messages decide which node a request continues; the stored tokens are what is continued. Nodes are only ever added, so a
generation may run while other requests attach and commit; everything here is synchronous and runs on the event loop,
which is the lock. Knows nothing of engines, templates or HTTP.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from runtime.proxy.chat import ChatRequest, Normalise, ParsedReply
from runtime.proxy.messages import Message, MessageKey, message_key
from runtime.rollouter.engine import Routing


@dataclass(slots=True, eq=False)
class Node:
    """One committed turn: the context it added (mask 0), then what the model sampled.

    For a root ``context_ids`` is a whole prompt, of which the first ``prompt_length`` tokens are the sample's prompt
    and count against the prompt budget. ``trainable`` is false when the log-probabilities cannot be used. ``closed``
    says that the sampled ids end in a stop token.
    """

    seq: int
    parent: Node | None
    head: Any
    dialect: str
    normalise: Normalise
    wire: list[Any]
    parsed: ParsedReply
    reply_key: MessageKey
    context_ids: array[int]
    sampled_ids: array[int]
    logprobs: array[float]
    weight_versions: array[int]
    prompt_length: int
    path_length: int
    closed: bool
    trainable: bool
    has_tools: bool
    side_call: bool
    finish_reason: str
    finished_sec: float
    started_sec: float = 0.0
    generate_sec: float = 0.0
    gap_sec: float | None = None
    cached_tokens: int = 0
    reply_id: str = ""
    delivered: bool = True
    """False when the agent was gone before it had the whole reply: whether it read it shows only in what it sends next.
    """
    echo: Any = None
    """The last spelling in which the agent sent this node's reply back."""
    children: list[Node] = field(default_factory=list)
    system: str = ""
    """Of a root: system text that its wire API keeps outside of the messages."""
    tools: tuple[dict[str, Any], ...] = ()
    """Of a root: the tools that its request offered, in OpenAI's form."""
    routing: Routing | None = None
    """Rows of the tokens that this node adds: from the parent's last token, which had none yet, to its own last but
    one."""

    def path(self) -> list[Node]:
        """From the root to this node."""
        nodes: list[Node] = []
        node: Node | None = self
        while node is not None:
            nodes.append(node)
            node = node.parent
        return nodes[::-1]

    def extended(self, context: array[int]) -> array[int]:
        """A new array: everything the engine saw and sampled up to and including this node, then ``context``."""
        # Put together anew each time: that takes microseconds, and a copy kept ready would double what a session holds.
        ids = array("i")
        for node in self.path():
            ids.extend(node.context_ids)
            ids.extend(node.sampled_ids)
        ids.extend(context)
        return ids


@dataclass(frozen=True, slots=True)
class AttachPoint:
    """The node a request continues (None: a new conversation) and the position of its first new wire message."""

    node: Node | None
    position: int


class Forest:
    """All conversations of one session."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.roots: list[Node] = []

    def attach(self, request: ChatRequest) -> AttachPoint:
        """The deepest node whose whole path, reply included, is a prefix of the request's messages; the newest of
        equals.
        """
        best = AttachPoint(None, 0)
        stack = [(root, 0) for root in self.roots if root.head == request.head and root.dialect == request.dialect]
        while stack:
            node, start = stack.pop()
            end = start + len(node.wire)
            if end >= len(request.wire) or not _same_wire(node, request, start):
                continue
            if not _same_reply(node, request, request.wire[end]):
                continue
            position = end + 1
            if (position, node.seq) > (best.position, best.node.seq if best.node else -1):
                best = AttachPoint(node, position)
            stack.extend((child, position) for child in node.children)
        return best

    def known_prompt(self, ids: array[int]) -> int | None:
        """Length of the longest root prompt that ``ids`` extends: the agent changed a reply, not the task."""
        lengths = {
            root.prompt_length
            for root in self.roots
            if root.prompt_length <= len(ids) and root.context_ids[: root.prompt_length] == ids[: root.prompt_length]
        }
        return max(lengths, default=None)

    def add(self, node: Node) -> None:
        self.nodes.append(node)
        if node.parent is None:
            self.roots.append(node)
        else:
            node.parent.children.append(node)

    def leaves(self) -> Iterator[Node]:
        """Nodes without children, oldest first."""
        return (node for node in self.nodes if not node.children)


def _same_wire(node: Node, request: ChatRequest, start: int) -> bool:
    """Whether the node's own messages stand in the request at ``start``. Plain equality first: it is the common case
    and runs in C.
    """
    theirs = request.wire[start : start + len(node.wire)]
    if theirs == node.wire:
        return True
    for index, (stored, sent) in enumerate(zip(node.wire, theirs, strict=True)):
        if stored == sent:
            continue
        if _keys(node.normalise(stored)) != _keys(request.normalise(sent)):
            return False
        # The newest spelling is the one that later requests will repeat.
        node.wire[index] = sent
    return True


def _same_reply(node: Node, request: ChatRequest, sent: Any) -> bool:
    if node.echo is not None and node.echo == sent:
        return True
    messages = request.normalise(sent)
    if len(messages) != 1:
        return False
    if message_key(messages[0]) != node.reply_key and not _completed(messages[0], node.parsed):
        return False
    if messages[0].origin and messages[0].origin != node.reply_id:
        return False  # equal words, but the agent says that it repeats another reply
    node.echo = sent
    return True


def _completed(sent: Message, reply: ParsedReply) -> bool:
    """Whether ``sent`` is ``reply`` with arguments that the agent added to its calls, as Claude Code writes the default
    of ``replace_all`` into every edit. The ids, which the proxy made, say that the calls are meant to be the same.
    """
    if sent.content.strip() != reply.content.strip() or len(sent.tool_calls) != len(reply.tool_calls):
        return False
    for theirs, ours in zip(sent.tool_calls, reply.tool_calls, strict=True):
        given, sampled = theirs.parsed(), ours.parsed()
        if theirs.id != ours.id or theirs.name != ours.name:
            return False
        if not isinstance(given, dict) or not isinstance(sampled, dict):
            return False
        if any(name not in given or given[name] != value for name, value in sampled.items()):
            return False
    return True


def _keys(messages: tuple[Message, ...]) -> list[MessageKey]:
    return [message_key(message) for message in messages]
