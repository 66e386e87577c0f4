"""Tiny coding agents for the loop's tests: a real program in the sandbox that obeys one word per model reply, and one
that a random policy solves about every second task with.
"""

from __future__ import annotations

from typing import Any

from runtime.errors import Termination, TrialError
from runtime.sandboxes.base import Mount, Sandbox
from runtime.scaffolds.base import AgentOutcome, ModelEndpoint

PROGRAM = r"""
import json, sys, time, urllib.error, urllib.request

url, secret, turns = sys.argv[1], sys.argv[2], int(sys.argv[3])
messages = [{"role": "user", "content": "Repair calc.add."}]
for _ in range(turns):
    body = json.dumps({"model": "policy", "messages": messages}).encode()
    headers = {"authorization": "Bearer " + secret, "content-type": "application/json"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url + "/v1/chat/completions", body, headers)) as reply:
            text = json.load(reply)["choices"][0]["message"].get("content") or ""
    except urllib.error.HTTPError as error:
        print("refused", error.code)
        sys.exit(3)
    messages.append({"role": "assistant", "content": text})
    messages.append({"role": "user", "content": "done"})
    if "SOLVE" in text or (MODE == "parity" and len(text) % 2 == 0):
        open("calc.py", "w").write("def add(a, b):\n    return a + b\n")
    elif "BREAK" in text or (MODE == "parity" and len(text) % 2):
        open("calc.py", "w").write("def add(a, b):\n    return 0\n")
    elif "CRASH" in text or MODE == "dying":
        sys.exit(7)
    elif "LIE" in text:
        sys.exit(69)
    elif "SWALLOW" in text:
        sys.exit(71)
    elif "HANG" in text:
        time.sleep(600)
print("finished")
"""


class WordAgent:
    """Implements ``Scaffold``."""

    mode = "word"

    def __init__(self, turns: int = 2) -> None:
        self._turns = turns

    @property
    def mounts(self) -> tuple[Mount, ...]:
        return ()

    async def run(self, task: Any, sandbox: Sandbox, endpoint: ModelEndpoint, *, timeout_sec: float) -> AgentOutcome:
        program = f"MODE = {self.mode!r}" + PROGRAM
        argv = ["python3", "-I", "-S", "-c", program, endpoint.base_url, endpoint.secret, str(self._turns)]
        try:
            done = await sandbox.exec(argv, cwd="/app", timeout_sec=timeout_sec)
        except TimeoutError as error:
            raise TrialError(Termination.TIMEOUT, "the agent hung") from error
        if done.exit_code == 69:
            raise TrialError(Termination.MODEL_UNAVAILABLE, "so the program says")
        if done.exit_code == 71:
            raise TrialError(Termination.OUT_OF_MEMORY, "the box is over its limit")
        if done.exit_code != 0:
            raise TrialError(Termination.AGENT_CRASHED, f"exit code {done.exit_code}: {done.stdout!r} {done.stderr!r}")
        return AgentOutcome(Termination.COMPLETED, logs={"agent.log": done.stdout}, metrics={"turns": self._turns})


class LateAgent(WordAgent):
    """Its first start fails before it asks the model anything."""

    def __init__(self) -> None:
        super().__init__()
        self.starts = 0

    async def run(self, task: Any, sandbox: Sandbox, endpoint: ModelEndpoint, *, timeout_sec: float) -> AgentOutcome:
        self.starts += 1
        if self.starts == 1:
            raise TrialError(Termination.AGENT_CRASHED, "a library is missing")
        return await super().run(task, sandbox, endpoint, timeout_sec=timeout_sec)


class ParityAgent(WordAgent):
    """Repairs the file when the reply has an even number of characters: a random policy's rewards differ."""

    mode = "parity"


class DyingAgent(WordAgent):
    """Ends badly after the model's first answer, whatever that was."""

    mode = "dying"


class SilentAgent(WordAgent):
    """Ends well without a word to the model."""

    def __init__(self) -> None:
        super().__init__(turns=0)
