"""Which replica serves which session: sticky per session, least in-flight tokens for a new one, rendezvous hashing on
request.

Knows names, counts and health only: handles are passed through untouched, nothing is called, and neither Ray nor verl
is imported. It satisfies verl's ``RequestLoadBalancer`` protocol (verl 0.9.1, ``workers/rollout/router.py``; there
``request_id`` is the session), so that the same class is verl's ``router_class`` and the rollouter's own balancer. Who
calls the replicas reports how that went (``succeeded``, ``failed``); a circuit breaker per server follows from it. Not
thread-safe: one event loop, or one actor.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

from runtime.rollouter.breaker import Breaker, BreakerSettings, Health

BLOCK_TOKENS = 4096
"""Calls are weighed in blocks of so many prompt tokens, begun ones included: how long one takes depends on its reply
too, whose length nobody knows, so smaller differences say nothing. A call of unknown size weighs one block, and where
all do, the least loaded server is the one with the fewest calls."""


def blocks_of(tokens: int) -> int:
    """What a call with a prompt of so many tokens weighs."""
    return 1 + max(0, tokens - 1) // BLOCK_TOKENS


_ROUTINGS = ("least_in_flight", "rendezvous")
_SETTINGS = {
    "router_class",
    "routing",
    "max_sticky_sessions",
    "breaker_failures",
    "breaker_pause_sec",
    "breaker_longest_pause_sec",
}


@dataclass(slots=True)
class _Server:
    """``calls``: session -> the weights, in blocks, of its calls in flight, oldest first; ``blocks`` is their sum and
    ``in_flight`` their number. ``sessions`` is how many have their home here."""

    handle: Any
    breaker: Breaker
    calls: dict[str, list[int]] = field(default_factory=dict)
    in_flight: int = 0
    blocks: int = 0
    sessions: int = 0
    draining: bool = False

    def admits(self) -> bool:
        return not self.draining and self.breaker.admits()

    def begin(self, session: str, blocks: int) -> None:
        self.calls.setdefault(session, []).append(blocks)
        self.in_flight += 1
        self.blocks += blocks

    def end(self, session: str | None) -> None:
        """One call of ``session`` less; of any session where it is not known."""
        if not self.calls:
            return
        key = session if session in self.calls else next(iter(self.calls))
        weights = self.calls[key]
        self.blocks -= weights.pop(0)
        self.in_flight -= 1
        if not weights:
            del self.calls[key]


class LoadBalancer:
    """``servers``: name -> handle. ``config`` is verl's router YAML as a dict (or the pool's): ``routing``
    ("least_in_flight", the default, or "rendezvous": a session's replica depends on the names of session and healthy
    servers alone, whatever happened before), ``max_sticky_sessions`` (least recently used sessions are forgotten beyond
    it, default 10000), ``breaker_failures``, ``breaker_pause_sec`` and ``breaker_longest_pause_sec`` (see
    ``BreakerSettings``), ``router_class`` (verl's own, ignored). Raises ``ValueError`` on other settings.

    ``max_cache_size``: what verl's factory calls ``max_sticky_sessions`` when a class is its ``load_balancer_cls``."""

    def __init__(
        self,
        servers: Mapping[str, Any],
        config: Mapping[str, Any] | None = None,
        *,
        max_cache_size: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        settings = dict(config or {})
        if unknown := sorted(settings.keys() - _SETTINGS):
            raise ValueError(f"load balancer: unknown setting {unknown[0]!r}; allowed: {', '.join(sorted(_SETTINGS))}")
        routing = settings.get("routing", "least_in_flight")
        if routing not in _ROUTINGS:
            raise ValueError(f"load balancer: routing: {routing!r}; allowed: {', '.join(_ROUTINGS)}")
        limit = settings.get("max_sticky_sessions", max_cache_size)
        if not isinstance(limit, int) or limit < 1:
            raise ValueError(f"load balancer: max_sticky_sessions: {limit!r}; give a whole number of at least 1")
        self._breaker = _breaker_settings(settings)
        self._clock = clock
        self._rendezvous = routing == "rendezvous"
        self._limit = limit
        self._servers: dict[str, _Server] = {}
        # Removed ones that still answer calls: those count again if the server comes back before they end.
        self._leaving: dict[str, _Server] = {}
        self._sticky: OrderedDict[str, str] = OrderedDict()
        self._rehomed = 0
        self._syncing = False
        self.add_servers(servers)

    # -- calls

    def acquire_server(self, request_id: str, **extra: Any) -> tuple[str, Any]:
        """(name, handle) for the next call of session ``request_id``; pair it with ``release_server``.

        ``extra``: ``tokens``, the length of the prompt, where it is known; ``avoid``, names of servers on which this
        call has failed already. A session stays where it is; it moves when its home is gone, draining, broken or to be
        avoided. Raises ``RuntimeError`` when no server takes calls now (the protocol's way of saying so).
        """
        if self._syncing:
            raise RuntimeError("No available servers in load balancer: weights are being replaced")
        avoid: Collection[str] = extra.get("avoid", ())
        name = self._sticky.get(request_id)
        home = None if name is None or name in avoid else self._servers.get(name)
        if name is None or home is None or not home.admits():
            name = self._choose(request_id, avoid)
            self._settle(request_id, name)
        else:
            self._sticky.move_to_end(request_id)
        server = self._servers[name]
        server.begin(request_id, blocks_of(int(extra.get("tokens", 0))))
        server.breaker.started()
        return name, server.handle

    def release_server(self, server_id: str, request_id: str | None = None) -> None:
        """One call on this server has ended. A server that is not known (any more) is not an error."""
        if server_id in self._servers:
            server = self._servers[server_id]
            server.end(request_id)
            server.breaker.ended()
        elif server_id in self._leaving:
            self._leaving[server_id].end(request_id)
            if not self._leaving[server_id].in_flight:
                del self._leaving[server_id]

    def require_acquire_fields(self) -> list[str]:
        """None: verl would send the whole prompt through Ray to have its length known."""
        return []

    def require_release_fields(self) -> list[str]:
        return ["request_id"]

    # -- health

    def succeeded(self, server_id: str) -> None:
        """The server has answered a call: it is well."""
        server = self._servers.get(server_id)
        if server is not None and server.breaker.succeeded() and self._rendezvous:
            self._forget_homes()

    def answered(self, server_id: str) -> bool:
        """The server has answered a health check. True when it was certainly gone before, and is back by this."""
        server = self._servers.get(server_id)
        if server is None or not server.breaker.answered():
            return False
        if self._rendezvous:
            self._forget_homes()
        return True

    def failed(self, server_id: str, *, certain: bool = False) -> bool:
        """The server has failed a call; ``certain``: it is gone. True when this opens its breaker: it gets no calls for
        a while (if it is gone: until it has ``answered``), and its sessions find another home at their next one."""
        server = self._servers.get(server_id)
        return server is not None and server.breaker.failed(certain=certain)

    def health(self, server_id: str) -> Health:
        """Raises ``KeyError`` for an unknown server."""
        return self._servers[server_id].breaker.health

    def admits_in(self, avoid: Collection[str] = ()) -> dict[str, float]:
        """In how many seconds each server takes a call if nothing is heard of it meanwhile; infinite for one that is
        gone. Without those that never will: draining ones and those to be avoided."""
        able = ((name, server) for name, server in self._servers.items() if name not in avoid and not server.draining)
        return {name: server.breaker.admits_in() for name, server in able}

    # -- the pool

    def add_servers(self, servers: Mapping[str, Any]) -> None:
        """Add servers, or replace the handles of known ones; either way they take calls from now on. In rendezvous mode
        sessions move to where the new pool puts them."""
        for name, handle in servers.items():
            server = _Server(handle, Breaker(self._breaker, self._clock))
            known = self._servers.get(name) or self._leaving.pop(name, None)
            if known is not None:
                server = replace(server, calls=known.calls, in_flight=known.in_flight, blocks=known.blocks)
                server.sessions = known.sessions
            self._servers[name] = server
        if servers and self._rendezvous:
            self._forget_homes()

    def remove_servers(self, server_ids: Sequence[str]) -> None:
        """Send nothing more to these and forget them; their sessions find another home at their next call. Unknown
        names are not an error."""
        for name in server_ids:
            server = self._servers.pop(name, None)
            if server is not None and server.in_flight:
                server.sessions = 0
                self._leaving[name] = server
        for session in [session for session, name in self._sticky.items() if name not in self._servers]:
            del self._sticky[session]
            self._rehomed += 1

    def drain_servers(self, server_ids: Sequence[str]) -> None:
        """Let these end the calls they hold and take no new ones. ``add_servers`` takes them back; once
        ``get_inflight_count`` is 0 nothing is lost by removing them."""
        for name in server_ids:
            if name in self._servers:
                self._servers[name].draining = True

    def begin_weight_sync(self) -> None:
        """New weights are on their way: until ``end_weight_sync`` no call is placed (``acquire_server`` raises).
        Idempotent."""
        self._syncing = True

    def end_weight_sync(self) -> None:
        """Calls are placed again. A session without a call in flight may be served anywhere now: new weights have made
        the caches of its home worthless, so homes are chosen anew, by load. In rendezvous mode they stay. Idempotent.
        """
        self._syncing = False
        if self._rendezvous:
            return
        busy = {session for server in self._servers.values() for session in server.calls}
        for session in [session for session in self._sticky if session not in busy]:
            self.forget_session(session)

    def get_all_servers(self) -> list[str]:
        return list(self._servers)

    def available_servers(self) -> list[str]:
        """Those that would take a new call now."""
        return [name for name, server in self._servers.items() if server.admits()]

    def get_inflight_count(self, server_id: str) -> int:
        server = self._servers.get(server_id)
        return server.in_flight if server else 0

    def get_total_inflight(self) -> int:
        return sum(server.in_flight for server in self._servers.values())

    def get_status(self) -> dict[str, Any]:
        servers = self._servers
        return {
            "servers": {name: server.in_flight for name, server in servers.items()},
            "total_inflight": self.get_total_inflight(),
            "active_servers": len(self.available_servers()),
            "registered_handles": list(servers),
            "sessions": {name: server.sessions for name, server in servers.items()},
            "load_blocks": {name: server.blocks for name, server in servers.items()},
            "health": {name: str(server.breaker.health) for name, server in servers.items()},
            "draining": [name for name, server in servers.items() if server.draining],
            "rehomed_sessions": self._rehomed,
        }

    def clear_sticky_cache(self) -> dict[str, Any]:
        """Forget every session's home, so that the next calls spread anew. Calls in flight stay where they are."""
        cleared = self._forget_homes()
        return {
            "cleared_entries": cleared,
            "server_loads": {name: one.in_flight for name, one in self._servers.items()},
        }

    def forget_session(self, request_id: str) -> None:
        """The session is over: its home no longer counts it."""
        name = self._sticky.pop(request_id, None)
        if name is not None and name in self._servers:
            self._servers[name].sessions -= 1

    def home(self, request_id: str, avoid: Collection[str] = ()) -> str | None:
        """Where the session's next call goes without anybody choosing; None when a home must be found for it."""
        name = self._sticky.get(request_id)
        server = None if name is None or name in avoid else self._servers.get(name)
        return name if server is not None and server.admits() else None

    def assign(self, request_id: str, server_id: str) -> None:
        """Somebody else has chosen the session's home. A server that is not known, or takes no calls, is not heeded."""
        if server_id in self._servers and self._servers[server_id].admits():
            self._settle(request_id, server_id)

    def loads(self) -> dict[str, int]:
        """Blocks in flight, of the servers that have any."""
        return {name: server.blocks for name, server in self._servers.items() if server.blocks}

    # -- choosing

    def _choose(self, session: str, avoid: Collection[str]) -> str:
        able = [(name, server) for name, server in self._servers.items() if name not in avoid and server.admits()]
        if not able:
            raise RuntimeError(f"No available servers in load balancer{self._why_none()}")
        if self._rendezvous:
            return max(able, key=lambda one: (_weight(one[0], session), one[0]))[0]
        # Sessions break ties: between two turns a session is not in flight, but it will be again.
        return min(able, key=lambda one: (one[1].blocks, one[1].sessions))[0]

    def _settle(self, session: str, name: str) -> None:
        """``name`` becomes the session's home."""
        if session in self._sticky:
            self.forget_session(session)
            self._rehomed += 1
        self._sticky[session] = name
        self._servers[name].sessions += 1
        if len(self._sticky) > self._limit:
            self.forget_session(next(iter(self._sticky)))

    def _forget_homes(self) -> int:
        count = len(self._sticky)
        self._sticky.clear()
        for server in self._servers.values():
            server.sessions = 0
        return count

    def _why_none(self) -> str:
        reasons = [
            f"{name} is {'draining' if server.draining else server.breaker.health}"
            for name, server in self._servers.items()
        ]
        return f": {', '.join(reasons[:8])}" if reasons else ""


def _breaker_settings(settings: Mapping[str, Any]) -> BreakerSettings:
    base = BreakerSettings()
    failures = settings.get("breaker_failures", base.failures)
    if not isinstance(failures, int) or failures < 1:
        raise ValueError(f"load balancer: breaker_failures: {failures!r}; give a whole number of at least 1")
    pauses: list[float] = []
    for name in ("pause_sec", "longest_pause_sec"):
        value = settings.get(f"breaker_{name}", getattr(base, name))
        if not isinstance(value, int | float) or not value > 0:
            raise ValueError(f"load balancer: breaker_{name}: {value!r}; give a number of seconds above 0")
        pauses.append(float(value))
    return BreakerSettings(failures, pauses[0], max(pauses))


def _weight(server: str, session: str) -> bytes:
    # The length keeps ("a", "bc") and ("ab", "c") apart. Not Python's hash(): that is salted per process.
    return blake2b(f"{len(server)}:{server}{session}".encode(), digest_size=8).digest()
