"""The proxy's append-only record: one line per committed turn, with the operating system before the agent gets the
reply.

A line survives the death of the process, not that of the machine: nothing is synced to disk on the way of a reply.
Knows nothing of HTTP or of what samples are made of the turns.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from runtime.proxy.forest import Node
from runtime.proxy.types import Accounting, SessionLimits
from runtime.rollouter.engine import Routing


class Journal:
    """Writer of one journal file, shared by all sessions of a proxy."""

    def __init__(self, path: Path) -> None:
        """Appends to ``path``; a torn last line of an earlier process is ended first."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)
        if self._file.tell() and not path.read_bytes().endswith(b"\n"):
            self._file.write(b"\n")

    def opened(self, session_id: str, limits: SessionLimits) -> None:
        self._write({"event": "opened", "session": session_id, "limits": asdict(limits)})

    def asked(self, session_id: str, request: int, *, prompt_tokens: int) -> None:
        """Called before the engine is: what it samples for this request cannot vanish without a trace."""
        self._write({"event": "asked", "session": session_id, "request": request, "prompt_tokens": prompt_tokens})

    def dropped(self, session_id: str, request: int, *, lost_tokens: int) -> None:
        """The request ended without a turn (engine failed, client gone, session closed)."""
        self._write({"event": "dropped", "session": session_id, "request": request, "lost_tokens": lost_tokens})

    def turn(self, session_id: str, node: Node, *, request: int) -> None:
        """Called before the turn is committed in memory and before any of it is sent."""
        self._write(
            {
                "event": "turn",
                "session": session_id,
                "request": request,
                "seq": node.seq,
                "parent": None if node.parent is None else node.parent.seq,
                "prompt_length": node.prompt_length,
                "context_ids": node.context_ids.tolist(),
                "sampled_ids": node.sampled_ids.tolist(),
                "logprobs": node.logprobs.tolist(),
                "weight_versions": node.weight_versions.tolist(),
                "trainable": node.trainable,
                "has_tools": node.has_tools,
                "side_call": node.side_call,
                "finish_reason": node.finish_reason,
                "closed": node.closed,
                "dialect": node.dialect,
                "messages": node.wire,
                "text": node.parsed.content,
                "tool_calls": [
                    {"id": call.id, "name": call.name, "arguments": call.arguments} for call in node.parsed.tool_calls
                ],
                "parse_status": node.parsed.status,
                "started_sec": node.started_sec,
                "finished_sec": node.finished_sec,
                "generate_sec": node.generate_sec,
                "gap_sec": node.gap_sec,
                "cached_tokens": node.cached_tokens,
                **({} if node.routing is None else {"routing": _routing(node.routing)}),
            }
        )

    def closed(self, session_id: str, accounting: Accounting) -> None:
        self._write({"event": "closed", "session": session_id, "accounting": asdict(accounting)})

    def close(self) -> None:
        self._file.close()

    def _write(self, record: dict[str, Any]) -> None:
        # One write call per line: a reader never sees half a line followed by another one.
        self._file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))


def _routing(routing: Routing) -> dict[str, Any]:
    return {**asdict(routing), "rows": base64.b64encode(routing.rows).decode()}


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a journal in order. A torn line, left by a process that died while writing, is skipped: nobody was
    told of it.
    """
    with path.open("rb") as file:
        for line in file:
            try:
                record = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue
            if isinstance(record, dict):
                yield record
