"""Runs a command-line agent in a sandbox so that its output outlives whatever happens to it.

Output goes to files below ``LOGS`` inside the box: a pipe would lose the end of a long log, and all of it when the
agent runs out of time. Knows no particular agent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from runtime.errors import Termination, TrialError
from runtime.sandboxes.base import Sandbox
from runtime.scaffolds.base import AgentFailure, AgentOutcome, ModelEndpoint

LOGS = "/logs/agent"
MAX_LOG_BYTES = 8 << 20
_TAIL_BYTES = 64 << 10
_PROBE_SEC = 15.0
_PROBE = """
import http.client, sys, urllib.parse
url = urllib.parse.urlsplit(sys.argv[1])
connection = http.client.HTTPConnection(url.hostname, url.port, timeout=10)
connection.request("HEAD", url.path)
connection.getresponse()
"""
_UNREACHABLE = "the model proxy cannot be reached from the sandbox"
_REDIRECT = 'mkdir -p "$0" && exec "$@" >"$0/stdout.txt" 2>"$0/stderr.txt"'


@dataclass(frozen=True)
class Ended:
    """An agent program that ended by itself: exit code (negative: killed by that signal) and what it left in ``LOGS``.

    ``logs`` maps file names to contents; of a log beyond ``MAX_LOG_BYTES`` in all only the ends are kept.
    """

    exit_code: int
    logs: Mapping[str, bytes]

    @property
    def stdout(self) -> bytes:
        return self.logs.get("stdout.txt", b"")

    @property
    def stderr(self) -> bytes:
        return self.logs.get("stderr.txt", b"")

    def failure(self, termination: Termination, what: str) -> AgentFailure:
        """A typed failure with the logs; ``what`` is for people."""
        return AgentFailure(termination, what, logs=self.logs)

    def crashed(self) -> AgentFailure:
        said = (self.stderr.strip() or self.stdout.strip()).decode(errors="replace")[-500:]
        return self.failure(Termination.AGENT_CRASHED, f"the agent ended with {self.exit_code}: {said}")


def closing_line(stdout: bytes) -> dict[str, Any] | None:
    """The last line that is a JSON object of ``type`` "result", as several agents print one."""
    for line in reversed(stdout.splitlines()):
        try:
            report = json.loads(line)
        except ValueError:
            continue
        if isinstance(report, dict) and report.get("type") == "result":
            return report
    return None


async def run_agent(
    sandbox: Sandbox,
    argv: Sequence[str],
    *,
    outcome: Callable[[Ended], AgentOutcome],
    env: Mapping[str, str],
    endpoint: ModelEndpoint,
    timeout_sec: float,
    stdin: bytes = b"",
) -> AgentOutcome:
    """``run_logged``, and then what ``outcome`` makes of it.

    When it raises that the agent crashed, and the agent's endpoint does not answer, that was an outage: agents word
    one in many ways, and some report it with exit code 0.
    """
    ended = await run_logged(sandbox, argv, env=env, endpoint=endpoint, timeout_sec=timeout_sec, stdin=stdin)
    try:
        return outcome(ended)
    except AgentFailure as failure:
        if failure.termination is Termination.AGENT_CRASHED and not await _answers(sandbox, endpoint):
            raise ended.failure(Termination.MODEL_UNAVAILABLE, f"{_UNREACHABLE}; {failure}") from failure
        raise


async def run_logged(
    sandbox: Sandbox,
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    endpoint: ModelEndpoint,
    timeout_sec: float,
    stdin: bytes = b"",
) -> Ended:
    """Run ``argv`` in the work directory to its end.

    Raises ``AgentFailure`` with the logs so far: ``MODEL_UNAVAILABLE`` when the agent failed or ran out of time and its
    endpoint does not answer, else ``TIMEOUT``.
    """
    try:
        result = await sandbox.exec(["sh", "-c", _REDIRECT, LOGS, *argv], env=env, stdin=stdin, timeout_sec=timeout_sec)
        ended = Ended(result.exit_code, await collect_logs(sandbox))
    except TimeoutError:
        ended = Ended(-9, await collect_logs(sandbox))
        if await _answers(sandbox, endpoint):
            raise ended.failure(Termination.TIMEOUT, f"the agent took longer than {timeout_sec:g} s") from None
    if ended.exit_code and not await _answers(sandbox, endpoint):
        raise ended.failure(Termination.MODEL_UNAVAILABLE, _UNREACHABLE)
    return ended


async def _answers(sandbox: Sandbox, endpoint: ModelEndpoint) -> bool:
    """Whether the session answers inside the sandbox. Agents retry on their own, and what they say about an outage
    differs; without this, one would look like a slow or broken agent."""
    argv = ["python3", "-I", "-S", "-c", _PROBE, endpoint.base_url]
    try:
        return (await sandbox.exec(argv, timeout_sec=_PROBE_SEC)).exit_code == 0
    except TimeoutError:
        return False


async def collect_logs(sandbox: Sandbox) -> dict[str, bytes]:
    """The files below ``LOGS`` by name; a log is no reason to fail a trial."""
    try:
        found = await sandbox.download([LOGS], max_bytes=MAX_LOG_BYTES)
    except TrialError:
        return await _tails(sandbox)
    return {_flat(path): content for path, content in found.items()}


async def _tails(sandbox: Sandbox) -> dict[str, bytes]:
    logs: dict[str, bytes] = {}
    for name in ("stdout.txt", "stderr.txt"):
        try:
            tail = await sandbox.exec(["tail", "-c", str(_TAIL_BYTES), f"{LOGS}/{name}"], env={}, timeout_sec=10)
        except (TrialError, TimeoutError):
            continue
        logs[name] = tail.stdout
    return logs


def _flat(path: str) -> str:
    """A path below ``LOGS`` as one file name."""
    parts = PurePosixPath(path).parts
    anchor = PurePosixPath(LOGS).parts[1:]
    for start in range(len(parts) - len(anchor) + 1):  # a process sandbox may show another prefix
        if parts[start : start + len(anchor)] == anchor:
            return "-".join(parts[start + len(anchor) :])
    return parts[-1]
