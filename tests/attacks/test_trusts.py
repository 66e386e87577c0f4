"""Nothing that the judge took on trust is paid; and the known solution is."""

import asyncio
from pathlib import Path

import pytest

from runtime.sandboxes.base import SandboxProvider

from .test_crossings import play
from .trusts import TRUSTS

pytestmark = pytest.mark.sandbox


def test_nothing_that_was_trusted_is_paid(provider: SandboxProvider, loop: asyncio.Runner, tmp_path: Path) -> None:
    play(provider, loop, tmp_path, TRUSTS)
