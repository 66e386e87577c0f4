"""A git repository of exactly one commit, written without running git: the history that an agent finds in a task's
work directory.

``git init`` plus ``git commit`` cost about 20 ms a task; the bytes of a packfile, its index and a staging area cost
well under one. Knows nothing about tasks. Formats: git's ``gitformat-pack`` (pack version 2, index version 2) and
``gitformat-index`` (version 2).
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Mapping
from functools import lru_cache

AUTHOR = "LiveRL <liverl@localhost>"
DATE = 1704067200
"""Seconds since the epoch of every commit (2024-01-01T00:00:00Z): equal files give an equal commit id."""

_COMMIT, _TREE, _BLOB = 1, 2, 3
_KIND = {_COMMIT: b"commit", _TREE: b"tree", _BLOB: b"blob"}
_CONFIG = b"[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n"


@lru_cache(maxsize=8192)
def _object(kind: int, data: bytes) -> tuple[bytes, bytes]:
    """(SHA-1, packfile entry) of one object. Cached, because the tasks of one package differ in a single file."""
    digest = hashlib.sha1(b"%s %d\0" % (_KIND[kind], len(data)) + data, usedforsecurity=False).digest()
    size = len(data)
    header = bytearray()
    byte, size = kind << 4 | size & 15, size >> 4
    while size:
        header.append(byte | 0x80)
        byte, size = size & 0x7F, size >> 7
    header.append(byte)
    return digest, bytes(header) + zlib.compress(data, 1)


def is_executable(content: bytes) -> bool:
    """Whether a file gets mode 755: scripts announce themselves by their first two bytes."""
    return content.startswith(b"#!")


def git_directory(files: Mapping[str, bytes], *, message: str) -> dict[str, bytes]:
    """The files of ``.git`` (path below the work directory -> content) for one commit on ``main`` that holds ``files``.

    ``files`` maps POSIX paths to contents. The staging area carries no stat data, so git's first ``status`` reads the
    files once.
    """
    objects: dict[bytes, bytes] = {}
    blobs: dict[str, bytes] = {}
    for path, content in files.items():
        digest, entry = _object(_BLOB, content)
        objects[digest] = entry
        blobs[path] = digest
    root = _write_tree(files, blobs, objects)
    commit_text = (
        f"tree {root.hex()}\nauthor {AUTHOR} {DATE} +0000\ncommitter {AUTHOR} {DATE} +0000\n\n{message.rstrip()}\n"
    )
    commit, entry = _object(_COMMIT, commit_text.encode())
    objects[commit] = entry
    pack, index = _pack(objects)
    name = f".git/objects/pack/pack-{pack[-20:].hex()}"
    return {
        ".git/HEAD": b"ref: refs/heads/main\n",
        ".git/config": _CONFIG,
        ".git/index": _staging_area(files, blobs),
        ".git/refs/heads/main": commit.hex().encode() + b"\n",
        f"{name}.pack": pack,
        f"{name}.idx": index,
    }


def _mode(content: bytes) -> int:
    return 0o100755 if is_executable(content) else 0o100644


def _write_tree(files: Mapping[str, bytes], blobs: Mapping[str, bytes], objects: dict[bytes, bytes]) -> bytes:
    """Add the tree objects of all folders, innermost first; returns the root's SHA-1."""
    folders: dict[str, list[tuple[bytes, bytes, bytes]]] = {"": []}
    for path, digest in blobs.items():
        folder, _, name = path.rpartition("/")
        folders.setdefault(folder, []).append((name.encode(), b"%o" % _mode(files[path]), digest))
        while folder:
            folder = folder.rpartition("/")[0]
            folders.setdefault(folder, [])
    for folder in sorted(folders, key=lambda path: (path.count("/"), path), reverse=True):
        if not folder:
            continue
        parent, _, name = folder.rpartition("/")
        folders[parent].append((name.encode(), b"40000", _add_tree(folders[folder], objects)))
    return _add_tree(folders[""], objects)


def _add_tree(entries: list[tuple[bytes, bytes, bytes]], objects: dict[bytes, bytes]) -> bytes:
    # Git orders a folder as if its name ended in a slash.
    ordered = sorted(entries, key=lambda entry: entry[0] + (b"/" if entry[1] == b"40000" else b""))
    digest, packed = _object(_TREE, b"".join(mode + b" " + name + b"\0" + digest for name, mode, digest in ordered))
    objects[digest] = packed
    return digest


def _pack(objects: Mapping[bytes, bytes]) -> tuple[bytes, bytes]:
    """(packfile, its version-2 index)."""
    body = bytearray(b"PACK" + struct.pack(">II", 2, len(objects)))
    offsets: dict[bytes, int] = {}
    for digest in sorted(objects):
        offsets[digest] = len(body)
        body += objects[digest]
    body += hashlib.sha1(body, usedforsecurity=False).digest()
    names = sorted(objects)
    counts = [0] * 256
    for name in names:
        counts[name[0]] += 1
    total, fanout = 0, []
    for count in counts:
        total += count
        fanout.append(total)
    index = bytearray(b"\xfftOc" + struct.pack(">I", 2) + struct.pack(">256I", *fanout))
    index += b"".join(names)
    index += b"".join(struct.pack(">I", zlib.crc32(objects[name])) for name in names)
    index += b"".join(struct.pack(">I", offsets[name]) for name in names)
    index += body[-20:]
    index += hashlib.sha1(index, usedforsecurity=False).digest()
    return bytes(body), bytes(index)


def _staging_area(files: Mapping[str, bytes], blobs: Mapping[str, bytes]) -> bytes:
    out = bytearray(b"DIRC" + struct.pack(">II", 2, len(files)))
    for path in sorted(files, key=str.encode):
        name = path.encode()
        entry = struct.pack(">10I", 0, 0, 0, 0, 0, 0, _mode(files[path]), 0, 0, 0)
        entry += blobs[path] + struct.pack(">H", min(len(name), 0xFFF)) + name
        out += entry + b"\0" * (8 - len(entry) % 8)
    out += hashlib.sha1(out, usedforsecurity=False).digest()
    return bytes(out)
