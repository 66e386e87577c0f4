"""The HTTP proxy between agents and engines."""

from typing import Annotated, Literal

from pydantic import Field

from runtime.config.base import Count, Host, Model, Text, Whole


class Proxy(Model):
    """The HTTP endpoint that agents talk to."""

    host: Host = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """0: any free port."""
    max_body_mib: Annotated[int, Field(ge=1, le=4096)] = 64
    """A longer request is refused (413)."""
    body_timeout_sec: Annotated[float, Field(gt=0.0, le=3600.0)] = 60.0
    """A request whose body takes longer is refused (408): it would hold its connection for nothing."""
    max_unfinished_mib: Annotated[int, Field(ge=1, le=65536)] = 256
    """All bodies together that are still coming in; the one that goes beyond is told to come back (503), and so is one
    with which those of its session are longer than one body may be."""
    max_head_kib: Annotated[int, Field(ge=1, le=1024)] = 64
    """A request line and headers that are longer are refused (431)."""
    head_timeout_sec: Annotated[float, Field(gt=0.0, le=3600.0)] = 15.0
    """A connection whose next request has begun, or whose first has not, is closed after this time (408)."""
    max_connections: Count = 8192
    """Connections open at a time, fewer where the process may not open so many files; above it those that wait for
    another request are closed, then new ones are told to come back (503)."""
    max_connections_per_address: Count = 256
    """Of these, from one other machine or pod; a box of this machine may have as many in its own way out."""
    metrics_key_file: Text | None = None
    """File whose content is the key for ``GET /metrics`` (``Authorization: Bearer KEY``); it is read anew for each.
    null: nobody has the key."""
    max_in_flight: Count = 4096
    """Replies in work at a time, over all sessions; further requests are told to come back (503)."""
    retry_after_sec: Annotated[int, Field(ge=1, le=3600)] = 1
    """What they, and those that found no replica, are told to wait."""
    max_sessions: Count = 100_000
    """Sessions open at a time."""
    keepalive_sec: Annotated[float, Field(ge=0.01, le=60.0)] = 3.0
    """Pause between the comment lines that keep a stream open until its reply is there."""
    side_call_tokens: Whole = 16
    """A conversation without tools that asks for at most this many tokens is a probe of the agent program: it is
    recorded and not trained."""
    volatile_rules: tuple[Literal["billing-header", "total-tokens", "date"], ...] = (
        "billing-header",
        "total-tokens",
        "date",
    )
    """Which spans that agents change behind the model's back do not make a request a new conversation: a billing line
    and a count of tokens in system text are dropped, a date is ignored when a history is matched."""
    record_journal: bool = True
    """Keep every turn on disk."""
