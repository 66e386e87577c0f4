"""What is known of an image once it is in the store: plain data that travels with a request."""

from __future__ import annotations

import re
from dataclasses import dataclass

NAME_LENGTH = 26
"""Hexadecimal digits of a layer's folder: all names of 128 layers must fit into one page for the kernel."""
FOLDER = re.compile(rf"[0-9a-f]{{{NAME_LENGTH}}}")
MAX_LAYERS = 128


@dataclass(frozen=True)
class Image:
    """``reference``: where it is had again, by digest, or ``built:...``; ``layers``: their contents' digests (diff
    ids), the lowest first."""

    digest: str
    reference: str
    layers: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    workdir: str = ""
    user: str = ""
    bytes: int = 0

    @property
    def folders(self) -> tuple[str, ...]:
        """Names of the layers' folders, the lowest first. An image may hold the same layer twice: of equal ones the
        highest counts, for the kernel takes no folder twice."""
        names = [layer.removeprefix("sha256:")[:NAME_LENGTH] for layer in self.layers]
        return tuple(reversed(dict.fromkeys(reversed(names))))

    @property
    def root_user(self) -> bool:
        user, _, group = self.user.partition(":")
        return user in ("", "0", "root") and group in ("", "0", "root")
