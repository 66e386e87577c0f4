"""A small package with a suite, and a provider of plain processes: fast, isolating nothing."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from runtime.sandboxes.base import Capabilities, ExecResult, SandboxRequest
from runtime.sandboxes.entries import Entry

SHOP = {
    "shop/__init__.py": "from shop.price import discount, total\n",
    "shop/price.py": '''
def total(prices, start=0):
    """Sum of prices.

    >>> total([1, 2])
    """
    for price in prices:
        if price < 0:
            continue
        start += price
    return start


def discount(price, percent):
    if not percent:
        return price
    return price - price * percent // 100


def unused(x):
    return x + 1
''',
    "shop/loop.py": """
def count_down(n):
    steps = 0
    while n > 0:
        n -= 1
        steps += 1
    return steps
""",
    "tests/test_price.py": """
import os
import sys
import time

import pytest

from shop import discount, total
from shop.loop import count_down


@pytest.mark.parametrize("prices, expected", [([], 0), ([1, 2], 3), ([1, -1, 5], 6)])
def test_total(prices, expected):
    assert total(prices) == expected


def test_total_starts():
    assert total([1], 10) == 11


def test_discount():
    assert discount(200, 10) == 180
    assert discount(200, 0) == 200


def test_count_down():
    assert count_down(3) == 3


def test_slow():
    time.sleep(0.6)


def test_flaky():
    assert sys.flags.hash_randomization == 0 or os.environ["PYTHONHASHSEED"] != "2"


def test_broken():
    assert total([1]) == 2


@pytest.mark.skip
def test_skipped():
    pass
""",
    "README.md": "A shop.\n",
}


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """The package's root folder."""
    root = tmp_path / "shop-source"
    for name, text in SHOP.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


class PlainSandbox:
    """A copy of the work directory and plain child processes."""

    proxy_url = None

    def __init__(self, request: SandboxRequest) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="liverl-test-"))
        shutil.copytree(request.lower, self._folder / "app")
        self._inside = {mount.target: str(mount.source) for mount in request.mounts}
        self._inside[request.workdir] = str(self._folder / "app")

    def _outside(self, text: str) -> str:
        for inside, outside in self._inside.items():
            text = text.replace(inside, outside)
        return text

    async def exec(
        self,
        argv: Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        timeout_sec: float,
        max_output: int = 1 << 20,
    ) -> ExecResult:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *(self._outside(argument) for argument in argv[1:]),
            cwd=self._outside(cwd or "/app"),
            env={"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1", **(env or {})},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(stdin), timeout_sec)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise
        assert process.returncode is not None
        return ExecResult(process.returncode, out[:max_output], err)

    async def upload(self, files: Mapping[str, bytes], *, mode: int = 0o644) -> None:
        raise AssertionError("not needed by the probe")

    async def download(self, paths: Sequence[str], *, max_bytes: int = 16 << 20) -> dict[str, bytes]:
        raise AssertionError("not needed by the probe")

    async def tree(
        self, paths: Sequence[str], *, max_bytes: int, known: Mapping[str, str] | None = None
    ) -> dict[str, Entry]:
        raise AssertionError("not needed by the probe")

    async def stop(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


class PlainProvider:
    def __init__(self) -> None:
        self.capabilities = Capabilities("none", False, False, False, False)
        self.running: set[PlainSandbox] = set()

    async def start(self, request: SandboxRequest) -> PlainSandbox:
        return PlainSandbox(request)

    async def close(self) -> None: ...


@pytest.fixture
def plain_provider() -> PlainProvider:
    return PlainProvider()
