"""A fleet of replicas and many sessions in virtual time, through the real ``LoadBalancer``: what the tests assert of
and the benchmark reports.

All sessions begin together; each is a chain of calls whose prompts grow, with pauses for tools in between. On the way
some replicas are lost and come back, and weights are synced once.
"""

from __future__ import annotations

import heapq
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from runtime.rollouter.balancer import LoadBalancer

LOSS_SEC, RETURN_SEC, SYNC_SEC = 20.0, 40.0, 60.0


@dataclass
class Outcome:
    """``spread_at_start``: most minus fewest sessions of a replica once all sessions have begun.
    ``moved_by_loss``: sessions that changed their replica between loss and return; ``homeless``: sessions that had to.
    ``moved_by_sync``: sessions that another replica served after the sync than before. ``worst_load``: highest ratio of
    the fullest replica's load to the mean one, while at least half of the calls are still to come.
    ``cpu_us_per_call``: of acquire and release together.
    """

    calls: int = 0
    finished: int = 0
    spread_at_start: int = 0
    moved_by_loss: set[str] = field(default_factory=set)
    homeless: set[str] = field(default_factory=set)
    moved_by_sync: int = 0
    worst_load: float = 0.0
    refused: int = 0
    calls_to_lost: int = 0
    left_in_flight: int = 0
    cpu_us_per_call: float = 0.0


@dataclass
class _Session:
    name: str
    turns: int
    tokens: int
    home: str | None = None
    call: int = 0
    calling: bool = False


class Simulation:
    """``routing`` as in the balancer's settings; ``lost`` replicas of ``replicas`` fail and return."""

    def __init__(self, *, replicas: int, sessions: int, lost: int, routing: str = "least_in_flight", seed: int = 0):
        self.now = 0.0
        self.random = random.Random(seed)
        names = [f"replica-{number}" for number in range(replicas)]
        self.balancer = LoadBalancer(
            dict.fromkeys(names), {"routing": routing, "max_sticky_sessions": sessions}, clock=lambda: self.now
        )
        self.replicas, self.rendezvous = replicas, routing == "rendezvous"
        self.lost = set(self.random.sample(names, lost))
        self.gone: set[str] = set()
        self.sessions = [
            _Session(f"session-{number}", self.random.randint(3, 9), self.random.randint(500, 4000))
            for number in range(sessions)
        ]
        self.outcome = Outcome()
        self._to_come = self._planned = sum(session.turns for session in self.sessions)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._watched: str = ""
        self._cpu = 0.0

    def run(self) -> Outcome:
        for session in self.sessions:
            self._begin(session)
        counts = self.balancer.get_status()["sessions"].values()
        self.outcome.spread_at_start = max(counts) - min(counts)
        self._at(LOSS_SEC, self._lose)
        self._at(RETURN_SEC, self._return)
        self._at(SYNC_SEC, self._sync)
        for second in range(1, 400):
            self._at(second, self._look)
        while self._events:
            self.now, _, event = heapq.heappop(self._events)
            event()
        self.outcome.left_in_flight = self.balancer.get_total_inflight()
        self.outcome.cpu_us_per_call = self._cpu / self.outcome.calls * 1e6
        return self.outcome

    def _at(self, moment: float, event: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (moment, self._count, event))

    def _begin(self, session: _Session) -> None:
        began = time.process_time()
        try:
            name, _ = self.balancer.acquire_server(session.name, tokens=session.tokens)
        except RuntimeError:
            self.outcome.refused += 1
            self._at(self.now + 1.0, lambda: self._begin(session))
            return
        finally:
            self._cpu += time.process_time() - began
        self.outcome.calls += 1
        self.outcome.calls_to_lost += name in self.gone
        if session.home not in (None, name):
            if self._watched == "loss":
                self.outcome.moved_by_loss.add(session.name)
            self.outcome.moved_by_sync += self._watched == "sync"
        session.home = name
        session.call, session.calling = session.call + 1, True
        number = session.call
        self._at(self.now + self.random.lognormvariate(1.0, 0.8), lambda: self._end(session, number))

    def _end(self, session: _Session, number: int) -> None:
        if number != session.call:
            return  # cut off with its replica, and asked again
        assert session.home is not None
        self._release(session)
        self.balancer.succeeded(session.home)
        session.turns -= 1
        self._to_come -= 1
        session.tokens += self.random.randint(200, 3000)
        if session.turns:
            self._at(self.now + self.random.expovariate(0.3), lambda: self._begin(session))
        else:
            self.balancer.forget_session(session.name)
            self.outcome.finished += 1

    def _release(self, session: _Session) -> None:
        assert session.home is not None
        session.calling = False
        began = time.process_time()
        self.balancer.release_server(session.home, session.name)
        self._cpu += time.process_time() - began

    def _lose(self) -> None:
        self.gone = set(self.lost)
        alive = [session for session in self.sessions if session.turns]
        self.outcome.homeless = {session.name for session in alive if session.home in self.lost}
        for name in self.lost:
            self.balancer.failed(name, certain=True)
        self._watched = "loss"
        for session in alive:
            if session.home in self.lost and session.calling:
                session.call += 1  # its reply will never come
                self._release(session)
                self._begin(session)

    def _return(self) -> None:
        self.gone.clear()
        self._watched = ""
        for name in self.lost:
            self.balancer.answered(name)

    def _sync(self) -> None:
        self.balancer.begin_weight_sync()
        self._watched = "sync"
        self._at(self.now + 5.0, self.balancer.end_weight_sync)

    def _look(self) -> None:
        if self._to_come < self._planned / 2:
            return
        blocks = self.balancer.get_status()["load_blocks"]
        present = [blocks[name] for name in blocks if name not in self.gone]
        if mean := sum(present) / len(present):
            self.outcome.worst_load = max(self.outcome.worst_load, max(present) / mean)


def simulate(
    *, replicas: int = 512, sessions: int = 10_000, lost: int = 16, routing: str = "least_in_flight", seed: int = 0
) -> Outcome:
    return Simulation(replicas=replicas, sessions=sessions, lost=lost, routing=routing, seed=seed).run()
