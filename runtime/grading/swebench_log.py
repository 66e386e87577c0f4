"""Package swebench's own log parsers, each run in a process of its own: a log is written beside code under test, and
may be made to keep a regular expression busy for ever.

Only its parsers are imported, without what its harness needs besides (engines, data sets, clouds): a light install,
``pip install --no-deps swebench unidiff``, will do.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.metadata
import importlib.util
import json
import resource
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from runtime.errors import Termination, TrialError

_LEAST = 5
_PARSE_SEC = 60.0
_PARSE_BYTES = 4 << 30
FIX = "pip install --no-deps 'swebench>=5' unidiff"
_HARNESS = "swebench.harness"


def installed() -> str | None:
    """Package swebench's version."""
    try:
        return importlib.metadata.version("swebench")
    except importlib.metadata.PackageNotFoundError:
        return None


def why_missing(parser: str) -> str | None:
    """Why package swebench cannot read a log with the parser of this name; None where it can."""
    version = installed()
    if version is None:
        return f"the log of its tests is read by package swebench, which is not installed: {FIX}"
    if int(version.partition(".")[0]) < _LEAST:
        return f"swebench {version} is installed; its log parsers have names since {_LEAST}: {FIX}"
    try:
        known = _registry()
    except ImportError as error:
        return f"package swebench: {error}: {FIX}"
    return None if parser in known else f"swebench {version} has no log parser {parser!r}"


def _registry() -> dict[str, Any]:
    spec = importlib.util.find_spec("swebench")
    if spec is None or spec.origin is None:
        raise ImportError("not installed")
    if _HARNESS not in sys.modules:
        bare = ModuleType(_HARNESS)  # its own __init__ imports engines and clouds
        bare.__path__ = [str(Path(spec.origin).parent / "harness")]
        sys.modules[_HARNESS] = bare
    registry: dict[str, Any] = importlib.import_module(f"{_HARNESS}.log_parsers").PARSER_REGISTRY
    return registry


async def statuses(parser: str, log: str, facts: dict[str, Any]) -> dict[str, str]:
    """Test -> PASSED, FAILED, … ``facts``: of the instance. Raises ``TrialError`` for a log that the parser, which must
    be here, cannot read in time."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        __name__,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    order = json.dumps({"parser": parser, "log": log, "facts": facts}).encode()
    try:
        out, err = await asyncio.wait_for(process.communicate(order), _PARSE_SEC)
    except TimeoutError as error:
        raise TrialError(Termination.VERIFIER_TIMEOUT, f"{parser} read for {_PARSE_SEC:.0f} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        said = err.decode(errors="replace").strip().splitlines()[-1:]
        raise TrialError(Termination.VERIFIER_CRASHED, f"{parser}: {''.join(said)}")
    found: dict[str, str] = json.loads(out)
    return found


def main() -> int:
    resource.setrlimit(resource.RLIMIT_AS, (_PARSE_BYTES, _PARSE_BYTES))
    order = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):  # what a parser prints is no part of the answer
        found = _registry()[order["parser"]](order["log"], SimpleNamespace(**order["facts"]))
        answer = json.dumps({str(name): str(status) for name, status in found.items()})
    sys.stdout.write(answer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
