"""The proxy's own counters, written in the Prometheus text format.

Knows nothing of sessions or HTTP; label values come from the proxy, never from an agent.
"""

from __future__ import annotations

from collections import Counter

from runtime.proxy.types import Trajectory


class ProxyMetrics:
    """Counters of one proxy since its start."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        """(dialect, HTTP status) -> requests; status 499: the client went away."""
        self.reply_seconds = 0.0
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.cached_tokens = 0
        self.in_flight = 0
        self._tokens: Counter[str] = Counter()
        self._sessions_closed = 0
        self._overlong = 0
        self._mismatches = 0
        self._unread = 0
        self._aborted = 0

    def closed(self, trajectory: Trajectory) -> None:
        """Add what a finished session did."""
        accounting = trajectory.accounting
        self._sessions_closed += 1
        self._overlong += trajectory.overlong
        self._mismatches += trajectory.mismatches
        self._unread += trajectory.unread
        self._aborted += trajectory.aborted
        for fate in ("sampled", "trained", "discarded", "auxiliary", "lost"):
            self._tokens[fate] += getattr(accounting, fate)

    def render(self, *, open_sessions: int, connections: int = 0, refused: int = 0) -> bytes:
        """``refused`` connections were more than there may be."""
        lines: list[str] = []

        def family(name: str, kind: str, text: str, rows: dict[str, float]) -> None:
            lines.append(f"# HELP liverl_proxy_{name} {text}")
            lines.append(f"# TYPE liverl_proxy_{name} {kind}")
            lines.extend(f"liverl_proxy_{name}{labels} {value:g}" for labels, value in rows.items())

        requests = {
            f'{{dialect="{dialect}",status="{status}"}}': float(count)
            for (dialect, status), count in sorted(self.requests.items())
        }
        family("requests_total", "counter", "Requests answered.", requests)
        family("reply_seconds_total", "counter", "Seconds from request to committed reply.", {"": self.reply_seconds})
        family("prompt_tokens_total", "counter", "Prompt tokens of committed replies.", {"": self.prompt_tokens})
        family("cached_tokens_total", "counter", "Prompt tokens the engine had cached.", {"": self.cached_tokens})
        family("completion_tokens_total", "counter", "Tokens of committed replies.", {"": self.completion_tokens})
        fates = {f'{{fate="{fate}"}}': float(count) for fate, count in sorted(self._tokens.items())}
        family("tokens_total", "counter", "Sampled tokens of closed sessions by what became of them.", fates)
        family("sessions_closed_total", "counter", "Sessions closed.", {"": self._sessions_closed})
        family("sessions_overlong_total", "counter", "Closed sessions that ran out of tokens.", {"": self._overlong})
        family("mismatches_total", "counter", "Replies without usable log-probabilities.", {"": self._mismatches})
        family("unread_calls_total", "counter", "Tool calls of the model that could not be read.", {"": self._unread})
        family("aborted_total", "counter", "Generations cut short.", {"": self._aborted})
        family("sessions_open", "gauge", "Sessions open now.", {"": open_sessions})
        family("connections_open", "gauge", "Connections open now.", {"": connections})
        family("connections_refused_total", "counter", "Connections above the bound.", {"": refused})
        family("requests_in_flight", "gauge", "Requests waiting for a reply now.", {"": self.in_flight})
        return ("\n".join(lines) + "\n").encode()
