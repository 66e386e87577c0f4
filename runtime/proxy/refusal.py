"""Why the proxy answers a request with an error: one exception, its kinds, and the HTTP status of each.

Knows nothing of the shape in which a dialect writes an error.
"""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    INVALID = "invalid"
    UNAUTHENTICATED = "unauthenticated"
    NOT_FOUND = "not_found"
    METHOD = "method_not_allowed"
    CLOSED = "closed"
    TOO_LARGE = "too_large"
    TOO_SLOW = "too_slow"
    OVERFLOW = "context_overflow"
    BUSY = "busy"
    CROWDED = "crowded"
    """Busy with bodies that are still coming in."""
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


STATUS: dict[Kind, int] = {
    Kind.INVALID: 400,
    Kind.UNAUTHENTICATED: 401,
    Kind.NOT_FOUND: 404,
    Kind.METHOD: 405,
    Kind.CLOSED: 409,
    Kind.TOO_LARGE: 413,
    Kind.TOO_SLOW: 408,
    Kind.OVERFLOW: 400,
    Kind.BUSY: 503,
    Kind.CROWDED: 503,
    Kind.UNAVAILABLE: 503,
    Kind.INTERNAL: 500,
}


class Refusal(Exception):
    """A request that gets an error reply. The message is for the agent's log: what was sent, what is allowed."""

    def __init__(self, kind: Kind, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.param = param

    @property
    def status(self) -> int:
        return STATUS[self.kind]


class ContextOverflow(Refusal):
    """The conversation needs ``tokens`` of context where ``limit`` are allowed; both dialects word it so that agents
    compact or stop.
    """

    def __init__(self, *, tokens: int, limit: int) -> None:
        super().__init__(
            Kind.OVERFLOW, f"the conversation needs {tokens} tokens, the maximum is {limit}", param="messages"
        )
        self.tokens = tokens
        self.limit = limit
