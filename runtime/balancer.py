"""Which replica serves which session: sticky per session, least in flight for a new one, rendezvous hashing on request.

Knows names and counts only: handles are passed through untouched, nothing is called, and neither Ray nor verl is
imported. It satisfies verl's ``RequestLoadBalancer`` protocol (verl 0.9.1, ``workers/rollout/router.py``; there
``request_id`` is the session), so that the same class is verl's ``router_class`` and the rollouter's own balancer. Not
thread-safe: one event loop, or one actor.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

_ROUTINGS = ("least_in_flight", "rendezvous")
_SETTINGS = {"router_class", "routing", "max_sticky_sessions"}


class LoadBalancer:
    """``servers``: name -> handle. ``config`` is verl's router YAML as a dict (or the pool's): ``routing``
    ("least_in_flight", the default, or "rendezvous": a session's replica depends on the two names alone, whatever
    happened before), ``max_sticky_sessions`` (least recently used sessions are forgotten beyond it, default 10000),
    ``router_class`` (verl's own, ignored). ``max_cache_size`` and ``full_determinism`` are the names under which verl's
    built-in factory passes the same two. Raises ``ValueError`` on other settings."""

    def __init__(
        self,
        servers: Mapping[str, Any],
        config: Mapping[str, Any] | None = None,
        *,
        max_cache_size: int | None = None,
        full_determinism: bool = False,
    ) -> None:
        settings = dict(config or {})
        if unknown := sorted(settings.keys() - _SETTINGS):
            raise ValueError(f"load balancer: unknown setting {unknown[0]!r}; allowed: {', '.join(sorted(_SETTINGS))}")
        routing = "rendezvous" if full_determinism else settings.get("routing", "least_in_flight")
        if routing not in _ROUTINGS:
            raise ValueError(f"load balancer: routing: {routing!r}; allowed: {', '.join(_ROUTINGS)}")
        limit = settings.get("max_sticky_sessions", 10_000) if max_cache_size is None else max_cache_size
        if not isinstance(limit, int) or limit < 1:
            raise ValueError(f"load balancer: max_sticky_sessions: {limit!r}; give a whole number of at least 1")
        self._rendezvous = routing == "rendezvous"
        self._limit = limit
        self._servers: dict[str, Any] = {}
        self._in_flight: dict[str, int] = {}
        # Requests that a removed server still answers: they count again if it comes back before they end.
        self._leaving: dict[str, int] = {}
        self._sessions: dict[str, int] = {}
        self._sticky: OrderedDict[str, str] = OrderedDict()
        self.add_servers(servers)

    def acquire_server(self, request_id: str, **extra: Any) -> tuple[str, Any]:
        """(name, handle) for the next call of session ``request_id``; pair it with ``release_server``.

        Raises ``RuntimeError`` when the pool is empty (the protocol's way of saying so).
        """
        if not self._servers:
            raise RuntimeError("No available servers in load balancer")
        name = self._sticky.get(request_id)
        if name is None:
            name = self._choose(request_id)
            self._sticky[request_id] = name
            self._sessions[name] += 1
            if len(self._sticky) > self._limit:
                _, forgotten = self._sticky.popitem(last=False)
                self._sessions[forgotten] -= 1
        else:
            self._sticky.move_to_end(request_id)
        self._in_flight[name] += 1
        return name, self._servers[name]

    def release_server(self, server_id: str, request_id: str | None = None) -> None:
        """One call on this server has ended. A server that is not known (any more) is not an error."""
        counts = self._in_flight if server_id in self._in_flight else self._leaving
        if counts.get(server_id, 0) > 0:
            counts[server_id] -= 1
            if counts is self._leaving and not counts[server_id]:
                del counts[server_id]

    def require_acquire_fields(self) -> list[str]:
        return []

    def require_release_fields(self) -> list[str]:
        return []

    def add_servers(self, servers: Mapping[str, Any]) -> None:
        """Add servers, or replace the handles of known ones. In rendezvous mode sessions move to where the new pool
        puts them."""
        for name, handle in servers.items():
            self._servers[name] = handle
            self._in_flight.setdefault(name, self._leaving.pop(name, 0))
            self._sessions.setdefault(name, 0)
        if servers and self._rendezvous:
            self.clear_sticky_cache()

    def remove_servers(self, server_ids: Sequence[str]) -> None:
        """Send nothing more to these; their sessions find another home at their next call. Unknown names are not an
        error."""
        removed = [name for name in server_ids if name in self._servers]
        for name in removed:
            del self._servers[name], self._sessions[name]
            if in_flight := self._in_flight.pop(name):
                self._leaving[name] = in_flight
        gone = set(removed)
        for session in [session for session, name in self._sticky.items() if name in gone]:
            del self._sticky[session]

    def get_all_servers(self) -> list[str]:
        return list(self._servers)

    def get_inflight_count(self, server_id: str) -> int:
        return self._in_flight.get(server_id, 0)

    def get_total_inflight(self) -> int:
        return sum(self._in_flight.values())

    def get_status(self) -> dict[str, Any]:
        return {
            "servers": dict(self._in_flight),
            "total_inflight": self.get_total_inflight(),
            "active_servers": len(self._servers),
            "registered_handles": list(self._servers),
            "sessions": dict(self._sessions),
        }

    def clear_sticky_cache(self) -> dict[str, Any]:
        """Forget every session's home, so that the next calls spread anew. Calls in flight stay where they are."""
        cleared = len(self._sticky)
        self._sticky.clear()
        self._sessions = dict.fromkeys(self._servers, 0)
        return {"cleared_entries": cleared, "server_loads": dict(self._in_flight)}

    def forget_session(self, request_id: str) -> None:
        """The session is over: its home no longer counts it."""
        name = self._sticky.pop(request_id, None)
        if name is not None:
            self._sessions[name] -= 1

    def _choose(self, session: str) -> str:
        if self._rendezvous:
            return max(self._servers, key=lambda name: (_weight(name, session), name))
        # Sessions break ties: between two turns a session is not in flight, but it will be again.
        return min(self._servers, key=lambda name: (self._in_flight[name], self._sessions[name]))


def _weight(server: str, session: str) -> bytes:
    # The length keeps ("a", "bc") and ("ab", "c") apart. Not Python's hash(): that is salted per process.
    return blake2b(f"{len(server)}:{server}{session}".encode(), digest_size=8).digest()
