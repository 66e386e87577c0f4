"""Starts the processes that import ahead, and ends those that nobody took.

Knows neither verl nor vLLM: what is worth importing is the platform's business (``Platform.ahead``).
"""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from runtime.trainer.ahead import claim
from runtime.trainer.ahead.kinds import Kind


def write_script(file: Path, *, kind: str) -> None:
    """What is to be started in the place of Python, asking for ``kind``."""
    # Without the packages of the environment, which take longest.
    line = shlex.join([sys.executable, "-S", "-E", str(Path(claim.__file__))])
    file.write_text(f'#!/bin/sh\nexport {claim.KIND}={kind}\nexec {line} "$@"\n', encoding="utf-8")
    file.chmod(0o700)


def command(kind: Kind, number: int) -> list[str]:
    module = "runtime.trainer.ahead.waiting"
    return [sys.executable, "-m", module, kind.name, str(number), *kind.modules]


def folder(ray_dir: Path) -> Path:
    return ray_dir / "ahead"


class Ahead:
    """The processes of one start of the trainer."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._children: dict[Path, subprocess.Popen[bytes]] = {}
        self._closed = False

    def prepare(self) -> Mapping[str, str]:
        """Variables for the trainer and all that it starts."""
        self._place.mkdir(mode=0o700, exist_ok=True)
        return {claim.PLACE: str(self._place)}

    def start(self, kinds: Sequence[Kind], start: Callable[[Sequence[str]], subprocess.Popen[bytes]]) -> None:
        """``start`` starts a command in the environment of the trainer, in a session of its own that ends with this
        process."""
        for kind in kinds:
            for number in range(kind.count):
                free = self._place / f"{kind.name}-{number}{claim.FREE}"
                self._children[free] = start(command(kind, number))

    def poll(self) -> None:
        """No dead child of ours may look alive to others."""
        for child in self._children.values():
            child.poll()

    def end_idle(self) -> None:
        """End those that nobody took; others are what they were taken for."""
        if self._closed:
            return
        self._closed = True
        for free, child in self._children.items():
            with contextlib.suppress(OSError):
                free.rename(free.with_suffix(claim.TAKEN))  # nobody takes it now
                child.kill()
        self.poll()

    def close(self) -> None:
        """End all."""
        for child in self._children.values():
            if child.poll() is None:
                child.kill()
        for child in self._children.values():
            child.wait()
