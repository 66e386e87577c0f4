"""The child process that evaluates Jsonnet: limited in memory and time, its imports jailed and recorded.

Started by ``compiler.load`` as a plain file with ``python -I -S``; it imports the engine, the standard library and
``instrument.py`` beside it, nothing else. Reads one request (JSON) from stdin, writes one JSON line with the value
and, when that went well, a second one with the positions of all values. A hostile spec can kill this process, never
the command.
"""

# Importing pathlib would cost a tenth of this process's life.
# ruff: noqa: PTH113, PTH118, PTH123, PTH202

from __future__ import annotations

import json
import os
import resource
import sys
from typing import Any


class Jail:
    """Import callback: files below the spec's folder or the library, nothing else; remembers what was read."""

    def __init__(self, root: str, library: str, *, marked: bool) -> None:
        self.root, self.library, self.marked = root, library, marked
        self.read: dict[str, bytes] = {}
        self.refusal: str | None = None

    def name(self, path: str) -> str:
        """How a file is called in messages and digests: relative to the spec's folder, or ``<library>/...``."""
        if _inside(path, self.library):
            return "<library>/" + os.path.relpath(path, self.library)
        return os.path.relpath(path, self.root)

    def __call__(self, base: str, relative: str) -> tuple[str, bytes]:
        try:
            return self.load(base, relative)
        except (RuntimeError, OSError, UnicodeDecodeError) as error:
            # The engine garbles some texts of foreign exceptions, so ours is kept here.
            self.refusal = f"import of '{relative}': {error}"
            raise RuntimeError("import refused") from None

    def load(self, base: str, relative: str) -> tuple[str, bytes]:
        for folder in (base or self.root, self.library):
            path = os.path.realpath(os.path.join(folder, relative))
            if not os.path.isfile(path):
                continue
            if not (_inside(path, self.root) or _inside(path, self.library)):
                raise RuntimeError("outside the spec's folder; allowed: files below it, or the library")
            if os.path.getsize(path) > 16 << 20:
                raise RuntimeError("larger than 16 MiB")
            with open(path, "rb") as file:
                data = file.read()
            self.read[self.name(path)] = data
            if self.marked and path.endswith((".jsonnet", ".libsonnet")):
                from instrument import instrument  # type: ignore[import-not-found]

                data = instrument(data.decode("utf-8"), self.name(path)).encode()
            return path, data
        raise RuntimeError("no such file in the spec's folder or the library")


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + os.sep)


def main() -> None:
    request: dict[str, Any] = json.load(sys.stdin)
    sys.path += request["sys_path"]
    import _gojsonnet

    memory, seconds = request["memory_bytes"], request["cpu_sec"]
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    jail = Jail(request["root"], request["library"], marked=False)
    try:
        text = _gojsonnet.evaluate_snippet(
            "<command line>", request["expression"], import_callback=jail, max_stack=500, max_trace=20
        )
        answer: dict[str, Any] = {"json": text}
        if len(text) > 64 << 20:
            answer = {"error": f"the spec's value is {len(text) >> 20} MiB of JSON; allowed: 64 MiB"}
    except (RuntimeError, UnicodeDecodeError) as error:
        answer = {"error": str(error)}
        if jail.refusal is not None:
            answer["refusal"] = jail.refusal
    answer["imports"] = {name: _digest(data) for name, data in sorted(jail.read.items())}
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    if "json" in answer:
        # Positions are a help, not a result: any failure here only costs the places in later messages.
        marked = Jail(request["root"], request["library"], marked=True)
        try:
            positions = _gojsonnet.evaluate_snippet(
                "<positions>", request["marked_expression"], import_callback=marked, max_stack=1000
            )
        except RuntimeError as error:
            positions = json.dumps({"error": str(error)[:2000]})
        sys.stdout.write(json.dumps(json.loads(positions)) + "\n")


def _digest(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    main()
