"""Tells whom the spec names that a run has ended, and how. What fails here is said and changes nothing of the run.

A message holds no secret: values of the variables that the spec names as secrets are cut out of it, and so are
addresses that come from one. Knows the run's record and its rows, nothing of who listens.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from runtime.config import CommandNotification, Notify, RuntimeConfig, WebhookNotification
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
    try:
        state, told = directory.read().state, message(directory, config)
    except Exception as error:  # whatever is wrong with the files of a run, its end is what was recorded
        return [f"observability.notify: nobody was told that the run ended: {_without_secrets(str(error), config)}"]
    for number, one in enumerate(config.notify):
        if state not in one.on:
            continue
        try:
            why = _send(one, told, config)
        except Exception as error:  # no notification changes how a run ended
            why = type(error).__name__
        if why is not None:
            where = f"observability.notify[{number}]"
            problems.append(f"{where}: nobody was told that the run ended: {_without_secrets(why, config)}")
    return problems


def message(directory: RunDirectory, config: RuntimeConfig) -> dict[str, Any]:
    """What is said of a run: its state, cause, step and scores, with ``text`` for people."""
    record = directory.read()
    # Before anything is cut off: half a secret would not be recognised.
    cause = _without_secrets(record.exit_cause, config)
    rows = read_rows(directory.metrics)
    scores = {one.name: {"first": one.first, "last": one.last} for one in before_and_after(rows)}
    step = rows[-1].step if rows else None
    words = [f"{record.experiment}/{record.run} {record.state}"]
    if step is not None:
        words.append(f"step {step}")
    words += [f"{name} {one['first']:.1%} → {one['last']:.1%}" for name, one in scores.items()]
    if cause.strip():
        words.append(cause.strip().splitlines()[0])
    found = {
        "text": ", ".join(words),
        "experiment": record.experiment,
        "run": record.run,
        "kind": record.kind,
        "state": record.state,
        "exit_code": record.exit_code,
        "cause": cause[:_LONGEST],
        "warning": idle_words(rows),
        "step": step,
        "score": next((row.data[SCORE] for row in reversed(rows) if SCORE in row.data), None),
        "held_out": scores,
        "start": record.start,
        "end": record.end,
        "host": record.host,
        "path": str(directory.path),
    }
    return {name: _clean(value, config) for name, value in found.items()}


def _clean(value: Any, config: RuntimeConfig) -> Any:
    """The value without secrets in its text; numbers stay numbers, whatever digits a secret has."""
    if isinstance(value, str):
        return _without_secrets(value, config)
    if isinstance(value, dict):
        return {_without_secrets(name, config): _clean(one, config) for name, one in value.items()}
    return value


def _without_secrets(text: str, config: RuntimeConfig) -> str:
    variables = [secret.variable for secret in config.secrets]
    variables += [
        one.url_variable for one in config.notify if isinstance(one, WebhookNotification) and one.url_variable
    ]
    # The longest first: what is left of one that holds another would still be a part of a secret.
    for value in sorted({os.environ.get(variable, "") for variable in variables} - {""}, key=len, reverse=True):
        text = text.replace(value, _HIDDEN)
    return text


def _send(one: Notify, told: dict[str, Any], config: RuntimeConfig) -> str | None:
    body = json.dumps(told).encode()
    if isinstance(one, CommandNotification):
        return _run(one, body, config)
    url = one.url if one.url_variable is None else os.environ.get(one.url_variable)
    if not url:
        return f"{one.url_variable} is not set"
    if not url.lower().startswith(("http://", "https://")):
        return f"{one.url_variable or url}: no web address (http:// or https://)"
    said: list[str | None] = []
    hidden = one.url_variable
    # Its own limit holds for each read and write, and a listener may answer byte by byte: the whole is bounded here.
    post = threading.Thread(
        target=lambda: said.append(_post(url, body, one.timeout_sec, hidden=hidden)), name="notify", daemon=True
    )
    post.start()
    post.join(one.timeout_sec)
    return said[0] if said else f"no answer within {one.timeout_sec:g} s"


def _post(url: str, body: bytes, timeout_sec: float, *, hidden: str | None) -> str | None:
    """``hidden``: the variable that the address comes from, of which no part may be said."""
    try:
        headers = {"content-type": "application/json", "user-agent": "liverl"}
        request = urllib.request.Request(url, body, headers, method="POST")
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=timeout_sec):
            return None
    except urllib.error.HTTPError as error:
        error.close()
        return f"the address answered {error.code}"
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if hidden is None:
            return str(reason) or type(reason).__name__
        # Messages quote a part of the address: its host, or the path behind a wrong character.
        plain = reason.strerror if isinstance(reason, OSError) and not isinstance(reason, ssl.SSLError) else None
        return f"{hidden}: {plain or type(reason).__name__}"


def _run(one: CommandNotification, body: bytes, config: RuntimeConfig) -> str | None:
    try:
        done = subprocess.run(list(one.argv), input=body, capture_output=True, timeout=one.timeout_sec, check=False)
    except subprocess.TimeoutExpired:
        return f"{one.argv[0]}: ended after {one.timeout_sec:g} s"
    except OSError as error:
        return f"{one.argv[0]}: {error.strerror}"
    if done.returncode:
        said = _without_secrets(done.stderr.decode(errors="replace"), config).strip()[-200:]
        return f"{one.argv[0]}: exit code {done.returncode}: {said}"
    return None
