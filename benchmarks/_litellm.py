"""LiteLLM's proxy as a peer: the same conversations, in front of the same engine, in the same run; CPU of its process.

It gets one worker, httptools, no database and no callbacks. Streaming is not the same work: LiteLLM relays the engine's
events as they come, LiveRL replays a finished reply.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

ROOT = Path(__file__).resolve().parents[1]
# 1.108 and later want a certifi that not every package index has.
VERSION = "1.106.2"
KEY = "sk-benchmark"
_CONFIG = """\
model_list:
  - model_name: policy
    litellm_params: {{model: openai/tiny, api_base: "{engine}/v1", api_key: none}}
litellm_settings: {{use_chat_completions_url_for_anthropic_messages: true, telemetry: false}}
general_settings: {{master_key: {key}}}
"""
_READY_SEC = 180


@dataclass(frozen=True)
class Peer:
    """A proxy in a process of its own; ``sessions`` are (base URL, key) pairs, one per connection of the load."""

    name: str
    process: subprocess.Popen[bytes]
    sessions: list[tuple[str, str]]

    def cpu_sec(self) -> float:
        """User and system time of the process and of its children so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks: int = sum(map(int, fields[11:15]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def rss_mib(self) -> float:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@contextmanager
def started(command: list[str], *, log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **environment}, cwd=log.parent
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def answers(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until ``url`` answers. Raises ``RuntimeError`` with the end of the log."""
    for _ in range(_READY_SEC * 20):
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            if process.poll() is not None:
                break
            time.sleep(0.05)
    raise RuntimeError(f"{url} does not answer: {log.read_text(errors='replace')[-500:]}")


@contextmanager
def engine(folder: Path, *, token_ids: list[int], text: str) -> Iterator[str]:
    """The URL of the fake vLLM server."""
    port, reply = free_port(), folder / "reply.json"
    reply.write_bytes(orjson.dumps({"token_ids": token_ids, "text": text}))
    command = [sys.executable, str(Path(__file__).with_name("_fake_vllm.py")), str(port), str(reply)]
    with started(command, log=folder / "engine.log") as process:
        answers(f"http://127.0.0.1:{port}/health", process, folder / "engine.log")
        yield f"http://127.0.0.1:{port}"


@contextmanager
def liverl(folder: Path, *, engine_url: str, tokenizer: Path, connections: int) -> Iterator[Peer]:
    """``liverl proxy`` as a user starts it, with one session per connection; authentication and journal on."""
    port, log = free_port(), folder / "liverl.log"
    command = [sys.executable, "-m", "liverl", "proxy", "--engine", engine_url, "--tokenizer", str(tokenizer)]
    command += ["--port", str(port), "--session", "", "--admin-key", KEY, "-o", str(folder / "out")]
    base = f"http://127.0.0.1:{port}"
    with started(command, log=log) as process:
        answers(base + "/healthz", process, log)
        sessions = []
        for _ in range(connections):
            request = urllib.request.Request(
                base + "/sessions", method="POST", headers={"Authorization": f"Bearer {KEY}"}
            )
            with urllib.request.urlopen(request) as response:
                session = orjson.loads(response.read())
            sessions.append((session["anthropic_base_url"], session["api_key"]))
        yield Peer("liverl", process, sessions)


@contextmanager
def litellm(folder: Path, *, engine_url: str, connections: int) -> Iterator[Peer]:
    """Installs it where it is missing. Raises ``RuntimeError`` saying why when it cannot be had."""
    port, log, config = free_port(), folder / "litellm.log", folder / "litellm.yaml"
    config.write_text(_CONFIG.format(engine=engine_url, key=KEY))
    command = [str(_installed() / "litellm"), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    base = f"http://127.0.0.1:{port}"
    quiet = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONWARNINGS": "ignore"}
    with started([*command, "--num_workers", "1"], log=log, **quiet) as process:
        answers(base + "/health/liveliness", process, log)
        yield Peer("litellm", process, [(base, KEY)] * connections)


def _installed() -> Path:
    sys.path.insert(0, str(ROOT))
    import pytest

    from tests.toolbox import python_tools

    try:
        return python_tools("litellm", f"litellm[proxy]=={VERSION}")
    except pytest.skip.Exception as why:
        raise RuntimeError(str(why)) from None
