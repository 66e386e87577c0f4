"""What a tree of files holds, entry by entry, and how one tree is made of another: plain data, for boxes and verdicts.

Ordinary contents are just ``bytes``. It does not know where a tree is.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Program:
    """A file that may be executed."""

    content: bytes


@dataclass(frozen=True)
class Link:
    """A symbolic link."""

    target: str


@dataclass(frozen=True)
class Folder:
    """A folder, of interest where nothing is in it."""


@dataclass(frozen=True)
class Removed:
    """What the other tree had here is gone. Only in a difference of two trees."""


@dataclass(frozen=True)
class Same:
    """What is as it was known to be. Only in the tree of a box that was told what is known (``mark``)."""


Entry = bytes | Program | Link | Folder | Removed | Same


def size(entry: Entry) -> int:
    """Bytes of content."""
    if isinstance(entry, Program):
        return len(entry.content)
    return len(entry) if isinstance(entry, bytes) else 0


def marked(entry: Entry) -> tuple[str, bytes]:
    """Kind (as the guest's ``files.tree`` names it, and ``-`` for removed) and content."""
    if isinstance(entry, Same):
        raise ValueError("the content of what is as it was is not here")
    if isinstance(entry, bytes):
        return "f", entry
    if isinstance(entry, Program):
        return "x", entry.content
    if isinstance(entry, Link):
        return "l", entry.target.encode(errors="surrogateescape")
    return ("d", b"") if isinstance(entry, Folder) else ("-", b"")


def made(kind: str, content: bytes) -> Entry:
    """The inverse of ``marked``. Raises ``ValueError``."""
    if kind == "f":
        return content
    if kind == "x":
        return Program(content)
    if kind == "l":
        return Link(content.decode(errors="surrogateescape"))
    if kind in ("d", "-"):
        return Folder() if kind == "d" else Removed()
    raise ValueError(f"no kind of entry: {kind!r}")


def mark(kind: str, content: bytes) -> str:
    """What an entry is known by; the guest's ``files._marked`` is the same."""
    return kind + (hashlib.sha256(content).hexdigest() if kind in "fx" else content.hex())
