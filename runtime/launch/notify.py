"""Tells whom the spec names that a run has ended, and how. What fails here is said and changes nothing of the run.

A message holds no secret: values of the variables that the spec names as secrets are cut out of it, and so are
addresses that come from one. Knows the run's record and its rows, nothing of who listens.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from runtime.config import CommandNotification, Notify, RuntimeConfig, WebhookNotification
from runtime.errors import UserError
from runtime.launch.rundir import RunDirectory
from runtime.telemetry.metrics import read_rows
from runtime.telemetry.scores import SCORE, before_and_after, idle_words

_HIDDEN = "(secret)"
_LONGEST = 2000


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A message is for the address that was named, and for no other."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


@contextmanager
def notifying(directory: RunDirectory, config: RuntimeConfig) -> Iterator[None]:
    """Whatever ends the block, tell of it when the run's record says how it ended."""
    try:
        yield
    finally:
        if config.notify:
            for problem in notify(directory, config):
                print(problem, file=sys.stderr)


def notify(directory: RunDirectory, config: RuntimeConfig) -> list[str]:
    """Send every notification that the run's state asks for; returns what went wrong, in words."""
    problems = []
    with suppress(UserError, OSError):
        told = message(directory, config)
        for number, one in enumerate(config.notify):
            if told["state"] in one.on:
                why = _send(one, told)
                if why is not None:
                    where = f"observability.notify[{number}]"
                    problems.append(f"{where}: nobody was told that the run ended: {_without_secrets(why, config)}")
    return problems


def message(directory: RunDirectory, config: RuntimeConfig) -> dict[str, Any]:
    """What is said of a run: its state, cause, step and scores, with ``text`` for people."""
    record = directory.read()
    rows = read_rows(directory.metrics)
    scores = {one.name: {"first": one.first, "last": one.last} for one in before_and_after(rows)}
    step = rows[-1].step if rows else None
    words = [f"{record.experiment}/{record.run} {record.state}"]
    if step is not None:
        words.append(f"step {step}")
    words += [f"{name} {one['first']:.1%} → {one['last']:.1%}" for name, one in scores.items()]
    if record.exit_cause:
        words.append(record.exit_cause.splitlines()[0])
    found = {
        "text": ", ".join(words),
        "experiment": record.experiment,
        "run": record.run,
        "kind": record.kind,
        "state": record.state,
        "exit_code": record.exit_code,
        "cause": record.exit_cause[:_LONGEST],
        "warning": idle_words(rows),
        "step": step,
        "score": next((row.data[SCORE] for row in reversed(rows) if SCORE in row.data), None),
        "held_out": scores,
        "start": record.start,
        "end": record.end,
        "host": record.host,
        "path": str(directory.path),
    }
    clean: dict[str, Any] = json.loads(_without_secrets(json.dumps(found), config, quoted=True))
    return clean


def _without_secrets(text: str, config: RuntimeConfig, *, quoted: bool = False) -> str:
    variables = [secret.variable for secret in config.secrets]
    variables += [
        one.url_variable for one in config.notify if isinstance(one, WebhookNotification) and one.url_variable
    ]
    for variable in variables:
        value = os.environ.get(variable)
        if value:
            text = text.replace(json.dumps(value)[1:-1] if quoted else value, _HIDDEN)
    return text


def _send(one: Notify, told: dict[str, Any]) -> str | None:
    body = json.dumps(told).encode()
    if isinstance(one, CommandNotification):
        return _run(one, body)
    url = one.url if one.url_variable is None else os.environ.get(one.url_variable)
    if not url:
        return f"{one.url_variable} is not set"
    request = urllib.request.Request(
        url, body, {"content-type": "application/json", "user-agent": "liverl"}, method="POST"
    )
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=one.timeout_sec):
            return None
    except urllib.error.HTTPError as error:
        error.close()
        return f"the address answered {error.code}"
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))


def _run(one: CommandNotification, body: bytes) -> str | None:
    try:
        done = subprocess.run(list(one.argv), input=body, capture_output=True, timeout=one.timeout_sec, check=False)
    except subprocess.TimeoutExpired:
        return f"{one.argv[0]}: ended after {one.timeout_sec:g} s"
    except OSError as error:
        return f"{one.argv[0]}: {error.strerror}"
    if done.returncode:
        return f"{one.argv[0]}: exit code {done.returncode}: {done.stderr.decode(errors='replace').strip()[-200:]}"
    return None
