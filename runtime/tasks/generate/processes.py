"""Several packages at a time, each by a process of its own: reading and changing code takes processors, and one process
has one.

The child (``python -m runtime.tasks.generate.processes``) reads one JSON object from standard input and says on
standard output, a JSON object a line, what it does and how it ended. Does not know how tasks are found.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from runtime.config import Environment, GenerateSource
from runtime.errors import MachineError, RunError, TrialError, UserError
from runtime.tasks.generate.survey import OnProgress

FEW = 4
"""Processors below which packages take turns: their tests run beside each other as it is."""
_ENVIRONMENT: TypeAdapter[Environment] = TypeAdapter(Environment)
_ERRORS = {"UserError": UserError, "RunError": RunError}
_LINE = 1 << 22


def at_once(source: GenerateSource, cores: int) -> int:
    """How many packages are worked on at a time."""
    return 1 if cores < FEW else min(len(source.packages), cores // 2)


async def generate_apart(
    source: GenerateSource,
    *,
    out: Path,
    name: str,
    environment: Environment,
    cache: Path,
    cores: int,
    on_progress: OnProgress,
) -> None:
    """As ``package_tasks.generate``, with the same tasks. Raises what the first process that fails has raised; the
    others are ended then."""
    number = at_once(source, cores)
    gate = asyncio.Semaphore(number)

    async def one(package: int) -> None:
        async with gate:
            order = {
                "source": source.model_copy(update={"packages": (source.packages[package],)}).model_dump(mode="json"),
                "environment": environment.model_dump(mode="json"),
                "out": str(out),
                "name": name,
                "cache": str(cache),
                "workers": max(1, cores // number),
            }
            await _child(order, on_progress)

    try:
        async with asyncio.TaskGroup() as group:
            for package in range(len(source.packages)):
                group.create_task(one(package))
    except* (UserError, MachineError, RunError, TrialError) as failed:
        raise failed.exceptions[0] from None


async def _child(order: dict[str, Any], on_progress: OnProgress) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"PYTHONSAFEPATH": "1"}
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __name__),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=environment,
        limit=_LINE,
    )
    assert child.stdin is not None and child.stdout is not None
    try:
        child.stdin.write(json.dumps(order).encode())
        child.stdin.close()
        ended: dict[str, Any] | None = None
        async for line in child.stdout:
            said = json.loads(line)
            if "say" in said:
                on_progress(said["say"])
            else:
                ended = said
        code = await child.wait()
    finally:
        if child.returncode is None:
            child.terminate()
            await child.wait()
    if ended is None:
        package = order["source"]["packages"][0]["name"]
        raise RunError(f"{package}: the process that makes its tasks ended with {code}")
    if ended["error"] is not None:
        raise _error(**ended["error"])


def _error(kind: str, text: str, fix: str) -> Exception:
    return MachineError(text, fix=fix) if kind == "MachineError" else _ERRORS.get(kind, RunError)(text)


def _say(**said: Any) -> None:
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


async def _work(order: dict[str, Any]) -> None:
    from runtime.tasks.generate.package_tasks import generate
    from runtime.tasks.graders import graders

    cache = Path(order["cache"])
    home = cache / "sandboxes"
    home.mkdir(parents=True, exist_ok=True)
    environment = _ENVIRONMENT.validate_json(json.dumps(order["environment"]))
    with tempfile.TemporaryDirectory(prefix="generate-", dir=home) as state:
        async with graders(environment, state=Path(state)) as (provider, verifier):
            await generate(
                GenerateSource.model_validate_json(json.dumps(order["source"])),
                out=Path(order["out"]),
                name=order["name"],
                provider=provider,
                verifier=verifier,
                cache=cache,
                workers=order["workers"],
                on_progress=lambda text: _say(say=text),
            )


def main() -> None:
    order = json.loads(sys.stdin.buffer.read())
    error: dict[str, str] | None = None
    try:
        asyncio.run(_work(order))
    except (UserError, MachineError, RunError, TrialError) as failed:
        fix = getattr(failed, "fix", "")
        error = {"kind": type(failed).__name__, "text": str(failed), "fix": str(fix or "")}
    _say(done=True, error=error)


if __name__ == "__main__":
    main()
