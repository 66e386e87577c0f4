"""``liverl proxy`` as a process of its own, and a client that opens and closes its sessions."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

_KEY = "benchmark"
_HEADERS = {"Authorization": f"Bearer {_KEY}"}


@contextmanager
def proxy(engine: str, tokenizer: Path, out: Path, *, max_tokens: int) -> Iterator[str]:
    """Yields its address."""
    command = [sys.executable, "-m", "liverl", "proxy", "--engine", engine, "--session", "", "-o", str(out)]
    command += ["--tokenizer", str(tokenizer), "--max-tokens", str(max_tokens), "--admin-key", _KEY]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            said = ""
            for line in process.stdout:
                said += line
                if line.startswith("proxy on "):
                    yield line.split()[2]
                    return
            raise SystemExit(said)
        finally:
            process.terminate()
            process.wait()


class Admin:
    """Of the proxy at ``proxy_url``."""

    def __init__(self, http: aiohttp.ClientSession, proxy_url: str) -> None:
        self.http, self.proxy_url = http, proxy_url

    async def call(self, method: str, url: str, **options: Any) -> Any:
        async with self.http.request(method, url, **options) as answer:
            if answer.status >= 400:
                raise SystemExit(f"{method} {url}: {answer.status}: {(await answer.text())[:500]}")
            return await answer.json()

    async def opened(self, name: str) -> dict[str, str]:
        session: dict[str, str] = await self.call(
            "POST", f"{self.proxy_url}/sessions", json={"session_id": name}, headers=_HEADERS
        )
        return session

    async def closed(self, name: str) -> dict[str, Any]:
        """Its trajectory."""
        answer = await self.call("DELETE", f"{self.proxy_url}/sessions/{name}", headers=_HEADERS)
        trajectory: dict[str, Any] = answer.get("trajectory", answer)
        return trajectory
