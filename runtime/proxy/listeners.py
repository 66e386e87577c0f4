"""Which process listens on a TCP port of this machine, for the message that a port is taken.

Reads Linux's ``/proc`` and finds what this user may see there; elsewhere, nothing.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

_LISTENING = "0A"


def listening_process(port: int) -> str | None:
    """For example ``process 4711 (liverl)``, None when it cannot be found out."""
    wanted = {f"socket:[{inode}]" for inode in _inodes(port)}
    if not wanted:
        return None
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(str(link.readlink()) in wanted for link in (process / "fd").iterdir()):
                return f"process {process.name} ({_name(process)})"
    return None


def _inodes(port: int) -> set[str]:
    found: set[str] = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    found.add(fields[9])
    return found


def _name(process: Path) -> str:
    """What the program was called with, without the interpreter's own name."""
    words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
    named = [Path(word).name for word in words if word and not word.startswith("-")]
    if named and named[0].startswith("python"):
        named = named[1:] or named
    return " ".join(named[:2]) or "unknown"
