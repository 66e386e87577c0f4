"""A step's policy as a folder that transformers and vLLM load, with a card that says what it is: spec, tasks, scores,
licence.

Knows checkpoints and run directories; nothing of how the policy was trained.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import orjson

from runtime.config import PretrainedPolicy, RuntimeConfig, load_runtime_config
from runtime.errors import UserError
from runtime.launch.model import is_hub_name
from runtime.launch.rundir import RunDirectory
from runtime.launch.whole import whole
from runtime.models import adapters, store
from runtime.models.sources import UNKNOWN, stated_licence
from runtime.telemetry.metrics import read_rows
from runtime.telemetry.scores import validation_scores
from runtime.trainer import stable

_LICENCE_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "NOTICE")


@dataclass(frozen=True)
class ExportedModel:
    """``form``: whole, merged (adapters in the weights), or adapter."""

    path: Path
    step: int
    form: str
    licence: str | None


def export_model(
    directory: RunDirectory, step: int, out: Path, *, keep_adapters: bool = False, licence: str | None = None
) -> ExportedModel:
    """Write step ``step`` of a run to ``out``, which must not exist; step 0 is the policy that the run began with.

    keep_adapters: where low-rank adapters were trained, write them alone instead of putting them into the weights.
    licence: in place of the one that the first policy's folder names. Raises ``UserError`` for what is not there."""
    if out.exists():
        raise UserError(f"{out}: exists already; name a folder that does not")
    source = _source(directory, step)
    config = load_runtime_config(directory.runtime_json)
    meta = source.parent / adapters.META
    alone = adapters.alone(source)
    adapted = alone or (meta.is_file() and adapters.Tensors.of(source).adapted)
    if keep_adapters and not adapted:
        raise UserError("--adapters apart: this run trained no low-rank adapters; leave the option out")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    form = "whole" if not adapted else "adapter" if keep_adapters else "merged"
    if alone and form == "merged":
        whole(source, partial)
    else:
        left = {"README.md", *(("config.json", "generation_config.json") if form == "adapter" else ())}
        for path in sorted(source.iterdir()):
            weights = path.suffix == ".safetensors" or path.name.endswith(".safetensors.index.json")
            if path.is_file() and path.name not in left and (alone or not (adapted and weights)):
                shutil.copy(path, partial / path.name)
        if form == "merged":
            adapters.merge(source, meta, partial)
        elif form == "adapter" and not alone:
            adapters.apart(source, meta, partial, base=_base(config))
    found = licence or _licence(config, directory)
    for name in _LICENCE_FILES:
        file = directory.policy / name
        if file.is_file() and not (partial / name).exists():
            shutil.copy(file, partial / name)
    belongs = adapters.base_of(source)[0] if alone else None
    card = model_card(directory, config, step=step, form=form, licence=found, belongs=belongs)
    (partial / "README.md").write_text(card, encoding="utf-8")
    partial.rename(out)
    return ExportedModel(out, step, form, found)


def _source(directory: RunDirectory, step: int) -> Path:
    if step == 0:
        folder = directory.policy
        if not (folder / "config.json").is_file():
            raise UserError(f"{folder}: the policy that the run began with is not there")
        return folder.resolve()
    steps = stable.stable_steps(directory.checkpoints)
    folder = stable.step_folder(directory.checkpoints, step) / "actor" / "huggingface"
    if step not in steps or not any(folder.glob("*.safetensors")):
        allowed = ", ".join(map(str, steps)) or "none"
        raise UserError(f"{directory.checkpoints}: no whole model of step {step}; there are steps: {allowed}, and 0")
    return folder


def _base(config: RuntimeConfig) -> str:
    return config.policy.path if isinstance(config.policy, PretrainedPolicy) else "policy"


def _published(config: RuntimeConfig) -> str | None:
    """The name on the hub of the model that the run began with; None where it has none: a path of this machine tells
    readers nothing, and is none of their business."""
    named = _base(config)
    if (kept := store.find(named)) is not None:
        record = next((record for folder, record in store.records() if folder == kept), None)
        named = record.source.partition("@")[0] if record is not None else ""
    return named if "/" in named and is_hub_name(named) and not Path(named).exists() else None


def _licence(config: RuntimeConfig, directory: RunDirectory) -> str | None:
    """What the card of the first policy says."""
    card = directory.policy / "README.md"
    if not isinstance(config.policy, PretrainedPolicy) or not card.is_file():
        return None
    stated = stated_licence(card)
    return None if stated == UNKNOWN else stated


def model_card(
    directory: RunDirectory,
    config: RuntimeConfig,
    *,
    step: int,
    form: str,
    licence: str | None,
    belongs: str | None = None,
) -> str:
    """The card in the form of the Hugging Face hub: metadata, then words. ``belongs``: what an adapter says itself that
    it belongs on."""
    record = directory.read()
    lock = _lock(directory)
    spec = str(lock.get("spec") or Path(record.spec).name or config.experiment)
    sources = lock.get("sources")
    digest = sources.get(spec) if isinstance(sources, dict) else None
    scores = {
        name: value
        for row in read_rows(directory.metrics)
        if row.step == step
        for name, value in validation_scores(row).items()
    }
    published = _published(config)
    base = published or Path(_base(config)).name
    began = "a new model, made by the run"
    if isinstance(config.policy, PretrainedPolicy):
        began = f"`{base}`" + ("" if published else ", a model folder that is not published under this name")
    head = [
        "---",
        "library_name: " + ("peft" if form == "adapter" else "transformers"),
        "pipeline_tag: text-generation",
    ]
    if licence is not None:
        head.append(f"license: {json.dumps(licence)}")
    if published is not None:
        head.append(f"base_model: {json.dumps(published)}")
    head += ["tags:", "- reinforcement-learning", "- code", "- liverl", "---", ""]
    own = f"`{base}`" if belongs in (None, _base(config)) else belongs
    what = {
        "whole": "All weights were trained.",
        "merged": "Low-rank adapters were trained and are added to the weights.",
        "adapter": f"Low-rank adapters alone; they belong on {own}.",
    }[form]
    lines = [
        *head,
        f"# {config.experiment}, step {step}",
        "",
        f"A coding agent's policy, trained by online reinforcement learning with LiveRL. {what}",
        "",
        "| | |",
        "|---|---|",
        f"| began with | {began} |",
        f"| spec | `{spec}`{f', sha256 `{digest}`' if digest else ''} |",
        f"| compiler | LiveRL {lock.get('compiler', 'unknown')} |",
        f"| run | `{record.experiment}/{record.run}` |",
        f"| agent | `{config.scaffold.type}` |",
        f"| tool calls | `{config.rollout.tool_parser}` |",
        f"| licence | {licence or 'not known: the model it began with names none; see that model'} |",
        "",
        "## Tasks",
        "",
        *(f"- trained on `{one.name}` ({one.source.type}{_count(record.tasks, one.name)})" for one in config.train),
        *(f"- scored on `{one.name}` ({one.source.type}{_count(record.tasks, one.name)})" for one in config.validation),
        "",
        "## Scores",
        "",
        *(f"- `{name}`: {value:.1%} solved at step {step}" for name, value in scores.items()),
        *([] if scores else [f"Step {step} was not scored on held-out tasks."]),
        "",
    ]
    return "\n".join(lines)


def _count(counts: dict[str, int], name: str) -> str:
    return f", {counts[name]} tasks" if name in counts else ""


def _lock(directory: RunDirectory) -> dict[str, object]:
    try:
        found = orjson.loads((directory.bundle / "liverl.lock").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
