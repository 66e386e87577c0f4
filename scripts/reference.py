"""Writes the pages of ``docs/reference/`` that are made from the code: the command line, how trials end, metrics,
verl's settings.

    python -m scripts.reference

A test compares the pages with this. ``docs/spec.md`` has a generator of its own (``compiler.reference``).
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runtime.errors import HANDLING, Termination
from runtime.report.panels import PANELS

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "reference"
MADE = "Made from the code by `make golden`; change the code, not this page."
EXITS = {
    0: "done",
    1: "a bug of ours; the message names the file with the traceback. Please report it",
    2: "the spec or an argument is wrong: every problem with file and line, and nothing was written",
    3: "the machine or the cluster lacks something: the message has the command that cures it",
    4: "the run failed: the message says why and where to look",
    130: "interrupted with Ctrl-C",
    141: "nobody reads the output any more (a pipe to `head`), so the command ended early; a run goes on instead",
}
MEANINGS = {
    Termination.COMPLETED: "The agent said that it is done.",
    Termination.MAX_TURNS: "The agent used up its turns.",
    Termination.OVERLONG: "The trajectory's tokens (`rollout.response_length`) are spent, or every reply is cut.",
    Termination.NO_TOOL: "So many replies in a row called no tool that the agent was ended.",
    Termination.TIMEOUT: "The agent ran out of time (`environment.agent_timeout_sec`).",
    Termination.AGENT_CRASHED: "The agent failed before the model had answered once.",
    Termination.AGENT_DIED: "The agent failed later: its commands may have brought that about.",
    Termination.ENV_SETUP_FAILED: "The sandbox could not be made.",
    Termination.SANDBOX_LOST: "The sandbox was there and is gone.",
    Termination.OUT_OF_MEMORY: "The sandbox used more memory than it may.",
    Termination.MODEL_UNAVAILABLE: "The proxy or every engine did not answer.",
    Termination.VERIFIER_TIMEOUT: "The tests ran out of time (`environment.verifier_timeout_sec`).",
    Termination.VERIFIER_CRASHED: "The verifier failed without a verdict.",
    Termination.TASK_INVALID: "The task's own files are wrong.",
    Termination.WORKER_LOST: "The agent-loop worker that played it died, as often as a trial may be tried.",
    Termination.NOT_KEPT: "It had ended, but a full disk did not take it: after a crash nobody would know of it.",
    Termination.INTERNAL: "A bug of ours.",
}
_SPECS = ("dense-8gpu.jsonnet", "ppo-8gpu.jsonnet", "moe-async.jsonnet", "moe-megatron.jsonnet")
_WRITTEN_BY = (
    "runtime/agent_loop/step_metrics.py",
    "runtime/trainer/curriculum.py",
    "runtime/trainer/agent_loop_manager.py",
    "runtime/trainer/ray_workers.py",
    "runtime/trainer/cuda/adapter.py",
    "runtime/laptop/verl_cpu/replica.py",
)
_EXAMPLE = re.compile(r"Examples?:\s+(?=liverl )")
_METRIC = re.compile(r"[a-z_0-9<>*]+(/[a-z_0-9<>*]+)+|proxy_[a-z_0-9]+")


def pages() -> dict[str, str]:
    """File name -> text."""
    return {"cli.md": command_line(), "errors.md": errors(), "metrics.md": metrics(), "verl.md": verl()}


def command_line() -> str:
    from typer.main import get_command

    from liverl.cli import build_app

    parts = [
        "# Command line",
        MADE,
        "Every command has `--help`, and `liverl --install-completion` completes them in a shell.",
    ]
    for name, command in _commands(get_command(build_app()), "liverl"):
        # Of an example, what can be typed; what is said after it is for who reads the help.
        words, *examples = _EXAMPLE.split(f"{command.help or ''}\n{command.epilog or ''}")
        parts += [f"## {name}", _prose(words)]
        arguments = [one for one in command.params if one.param_type_name == "argument"]
        options = [one for one in command.params if one.param_type_name == "option" and not one.hidden]
        usage = [name, *(["[OPTIONS]"] if options else []), *map(_word, arguments)]
        parts.append(f"```text\n{' '.join(usage)}\n```")
        rows = [f"| `{_cell(_word(one))}` | {_default(one)} | {_meaning(one)} |" for one in arguments]
        rows += [f"| {_names(one)} | {_default(one)} | {_meaning(one)} |" for one in options]
        if rows:
            parts.append("\n".join(["| takes | default | |", "|---|---|---|", *rows]))
        if examples:
            parts.append("\n".join(["```sh", *(_prose(example).partition(", ")[0] for example in examples), "```"]))
    return "\n\n".join(parts) + "\n"


def _commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    for word, child in sorted(getattr(command, "commands", {}).items()):
        if hasattr(child, "commands"):
            yield from _commands(child, f"{name} {word}")
        else:
            yield f"{name} {word}", child


def _word(argument: Any) -> str:
    word = argument.metavar or argument.name.upper()
    return word if argument.required or word.startswith("[") else f"[{word}]"


def _names(option: Any) -> str:
    value = "" if option.is_flag else f" {option.metavar or option.name.upper()}"
    return ", ".join(f"`{_cell(name + value)}`" for name in (*option.opts, *option.secondary_opts))


def _default(one: Any) -> str:
    if one.required:
        return "required"
    if one.name == "jobs":
        return "one for each core"
    shown = one.default not in (None, False, (), []) and not getattr(one, "is_flag", False)
    return f"`{_cell(str(one.default))}`" if shown else ""


def _meaning(one: Any) -> str:
    variables = [one.envvar] if isinstance(one.envvar, str) else list(one.envvar or ())
    also = f" Also the variable {', '.join(f'`{name}`' for name in variables)}." if variables else ""
    return _cell(one.help or "") + also


def errors() -> str:
    exits = "\n".join(f"| {code} | {words} |" for code, words in EXITS.items())
    rows = "\n".join(
        f"| `{end.value}` | {how.boundary or '–'} | {_yes(how.retry)} | {_yes(how.grade)} | {MEANINGS[end]} |"
        for end, how in HANDLING.items()
    )
    return f"""# Errors and ends

{MADE}

## Exit codes

| code | means |
|---|---|
{exits}

## How a trial ends

A bad trial is data, not a crash: its failure is typed once, where it happens, and this table says what follows
(`runtime/errors.py`). What is not graded has no reward; it never becomes a silent 0. What is graded stays in the loss,
unless `algorithm.trajectory_filter` names it. [Troubleshooting](../troubleshooting.md) says what to do about each.

| termination | boundary | tried again | graded | means |
|---|---|---|---|---|
{rows}
"""


def metrics() -> str:
    parts = [
        "# Metrics",
        MADE,
        '`metrics.jsonl` of a run has one row for each step, `{"step": N, "data": {name: number}}`: verl\'s numbers\n'
        "under verl's names, and LiveRL's own. A metric is there when what it measures takes place: no critic, no\n"
        "`critic/vf_loss`.",
        "## What the page plots",
        "`*` stands for the names of your task sets or replicas. `solve/` and `derived/` are made from the others by\n"
        "whoever shows them.",
    ]
    for section in dict.fromkeys(panel.section for panel in PANELS):
        rows = [
            f"| {panel.title} | {', '.join(f'`{line.key}`' for line in panel.lines)} | {_cell(panel.note)} |"
            for panel in PANELS
            if panel.section == section
        ]
        parts += [f"### {section}", "\n".join(["| plot | metrics | |", "|---|---|---|", *rows])]
    parts += [
        "## What LiveRL writes",
        "Beside verl's; `<…>` stands for a part, a reason or a counter of the sandboxes' backend. A reason is a\n"
        "termination of [Errors and ends](errors.md).",
    ]
    for path in _WRITTEN_BY:
        names = sorted(set(_written(ROOT / path)))
        parts.append(f"`{path}`:\n\n" + ", ".join(f"`{name}`" for name in names))
    return "\n\n".join(parts) + "\n"


def _written(path: Path) -> Iterator[str]:
    """Names of metrics in a module: string constants and f-strings that look like one and are keys of a table."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        keys: list[ast.expr | None] = []
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            keys = [node.slice]
        elif isinstance(node, ast.Dict):
            keys = list(node.keys)
        elif isinstance(node, ast.DictComp):
            keys = [node.key]
        for key in keys:
            name = _text(key)
            if _METRIC.fullmatch(name):
                yield name


def _text(node: ast.expr | None) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            part.value if isinstance(part, ast.Constant) else f"<{ast.unparse(part.value)}>" for part in node.values
        )
    return ""


def verl() -> str:
    """What every key of the examples' ``verl.yaml`` follows from, as their source maps say."""
    from compiler import compile_in_memory

    found: dict[str, dict[str, None]] = {}
    for spec in _SPECS:
        files = compile_in_memory(ROOT / "specs" / spec).files
        for key, entry in json.loads(files[".map.json"])["files"]["verl.yaml"].items():
            if "[" not in key and "." in key:
                words = [f"`{origin}`" for origin in entry.get("from", ())] or [entry.get("why", "")]
                found.setdefault(key, {}).update(dict.fromkeys(words))
    parts = [
        "# verl's settings",
        MADE,
        "Every key that LiveRL writes into `verl.yaml`, and the fields of the spec that it follows from; words\n"
        "instead of a field: why it is always so. Read from the source maps of\n"
        f"{', '.join(f'`{one}`' for one in _SPECS)}.\n"
        "What is not here has verl's own default. For a bundle of yours, `liverl explain BUNDLE/verl.yaml:LINE` says\n"
        "it with the value, file and line.",
    ]
    for section in dict.fromkeys(_section(key) for key in found):
        rows = [
            f"| `{key}` | {_cell(', '.join(words))} |"
            for key, words in sorted(found.items())
            if _section(key) == section
        ]
        parts += [f"## {section}", "\n".join(["| verl | spec |", "|---|---|", *rows])]
    return "\n\n".join(parts) + "\n"


def _section(key: str) -> str:
    words = key.split(".")
    return ".".join(words[: 2 if words[0] == "actor_rollout_ref" else 1])


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _prose(text: str) -> str:
    return " ".join(text.replace("``", "`").split())


def _cell(text: str) -> str:
    return _prose(text).replace("|", "\\|")


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
