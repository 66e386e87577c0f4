"""Low-rank adapters: alone in a folder as peft and vLLM load them, put into the weights, or taken out of a checkpoint.

An adapter's folder says what it belongs on (``BASE``), down to the digest of every file of weights: on another model it
would be another policy. verl (0.9.1, ``fsdp_checkpoint_manager.py``) may also save a model with adapters under peft's
names, base weights and both factors side by side, with rank and alpha in ``lora_train_meta.json``. One tensor is in
memory at a time, beside those of the file that is being written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from runtime.errors import UserError
from runtime.models.store import digest

META = "lora_train_meta.json"
CONFIG, WEIGHTS, BASE = "adapter_config.json", "adapter_model.safetensors", "liverl-base.json"
_PREFIX = "base_model.model."
_A, _B = ".lora_A.default.weight", ".lora_B.default.weight"
_SHARD_BYTES = 4 << 30


@dataclass(frozen=True)
class Tensors:
    """The tensors of a model folder by name, read when they are asked for."""

    places: dict[str, Path]

    @classmethod
    def of(cls, folder: Path) -> Tensors:
        from safetensors import safe_open

        places: dict[str, Path] = {}
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                places |= dict.fromkeys(file.keys(), path)
        return cls(places)

    def __getitem__(self, name: str) -> Any:
        from safetensors import safe_open

        with safe_open(self.places[name], framework="pt") as file:
            return file.get_tensor(name)

    @property
    def adapted(self) -> bool:
        return any(name.endswith(_A) for name in self.places)


def alone(folder: Path) -> bool:
    """Whether a folder holds an adapter and not the model that it belongs on."""
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def write(tensors: Mapping[str, Any], meta: Path, out: Path, *, base: str, files: Mapping[str, str]) -> None:
    """Write an adapter (verl's names -> tensors) into ``out``. ``base``: what its model is called; ``files``: see
    ``weight_files``."""
    _write(((_plain(name), tensor) for name, tensor in sorted(tensors.items())), out, name="adapter_model")
    _write_config(tensors, _facts(meta), out, base=base)
    (out / BASE).write_bytes(orjson.dumps({"base": base, "files": files}, option=orjson.OPT_INDENT_2) + b"\n")


def weight_files(model: Path) -> dict[str, str]:
    """Name -> sha256 of every file of a model folder's weights."""
    return {path.name: digest(path) for path in sorted(model.glob("*.safetensors"))}


def base_of(adapter: Path) -> tuple[str, dict[str, str]]:
    """What the model of an adapter is called, and its ``weight_files``. Raises ``UserError``."""
    try:
        found = orjson.loads((adapter / BASE).read_bytes())
        return str(found["base"]), dict(found["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{adapter / BASE}: what the adapter belongs on cannot be read: {error}") from error


def belongs(adapter: Path, model: Path) -> bool:
    """Whether ``model`` is the one that the adapter was trained on."""
    return weight_files(model) == base_of(adapter)[1]


def put_in(adapter: Path, base: Path, out: Path) -> None:
    """Write the whole policy into ``out``, in float32: ``base``'s weights with the adapter's change, computed as the
    trainer and the rollout do. Raises ``UserError`` for an adapter that does not fit."""
    import torch

    facts, own, tensors = _facts(adapter / CONFIG), Tensors.of(adapter), Tensors.of(base)
    scale = float(facts["lora_alpha"]) / float(facts["r"])
    first, second = ".lora_A.weight", ".lora_B.weight"
    changed = {
        name.removeprefix(_PREFIX).removesuffix(first) + ".weight" for name in own.places if name.endswith(first)
    }
    if strange := sorted(changed - tensors.places.keys()):
        raise UserError(f"{adapter}: the adapter does not fit {base}, which has no {', '.join(strange[:3])}")

    def whole() -> Iterator[tuple[str, Any]]:
        for name in tensors.places:
            tensor = tensors[name].to(torch.float32)
            if name in changed:
                module = _PREFIX + name.removesuffix(".weight")
                tensor += scale * (own[module + second].float() @ own[module + first].float())
            yield name, tensor

    _write(whole(), out, name="model")


def merge(source: Path, meta: Path, out: Path) -> None:
    """Write the weights of ``source`` with its adapters added: what a model without them would have to be."""
    tensors, scale = Tensors.of(source), _scale(meta)

    def merged() -> Iterator[tuple[str, Any]]:
        for name in tensors.places:
            if name.endswith((_A, _B)):
                continue
            tensor, module = tensors[name], name.removesuffix(".weight").removesuffix(".base_layer")
            if module + _A in tensors.places and name.endswith(".weight"):
                # In float32: a product of two rounded factors, rounded once more, would not be what was trained.
                change = tensors[module + _B].float() @ tensors[module + _A].float()
                tensor = (tensor.float() + scale * change).to(tensor.dtype)
            yield name.removeprefix(_PREFIX).replace(".base_layer.", "."), tensor

    _write(merged(), out, name="model")


def apart(source: Path, meta: Path, out: Path, *, base: str) -> None:
    """Write the adapters alone, as peft loads them on ``base``."""
    tensors = Tensors.of(source)
    facts = _facts(meta)
    names = [name for name in tensors.places if name.endswith((_A, _B))]
    _write(((_plain(name), tensors[name]) for name in names), out, name="adapter_model")
    _write_config(names, facts, out, base=base)


def _plain(name: str) -> str:
    return name.replace(".default.weight", ".weight")


def _write_config(names: Iterable[str], facts: Mapping[str, Any], out: Path, *, base: str) -> None:
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": facts["r"],
        "lora_alpha": facts["lora_alpha"],
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted({name.removesuffix(_A).rpartition(".")[2] for name in names if name.endswith(_A)}),
        "inference_mode": True,
    }
    (out / CONFIG).write_bytes(orjson.dumps(config, option=orjson.OPT_INDENT_2) + b"\n")


def _facts(meta: Path) -> dict[str, Any]:
    try:
        facts = orjson.loads(meta.read_bytes())
        alpha = float(facts["lora_alpha"])
        return {"r": int(facts["r"]), "lora_alpha": int(alpha) if alpha.is_integer() else alpha}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{meta}: rank and alpha of the adapters cannot be read: {error}") from error


def _scale(meta: Path) -> float:
    facts = _facts(meta)
    return float(facts["lora_alpha"]) / float(facts["r"])


def _write(tensors: Iterator[tuple[str, Any]], out: Path, *, name: str) -> None:
    from safetensors.torch import save_file

    shards: list[dict[str, Any]] = [{}]
    size, total, places = 0, 0, {}
    for key, tensor in tensors:
        count = tensor.numel() * tensor.element_size()
        if size and size + count > _SHARD_BYTES:
            save_file(shards[-1], out / f"{name}-{len(shards):05d}.safetensors", metadata={"format": "pt"})
            shards[-1] = {}
            shards.append({})
            size = 0
        shards[-1][key] = tensor.contiguous()
        places[key] = len(shards)
        size += count
        total += count
    if len(shards) == 1:
        save_file(shards[0], out / f"{name}.safetensors", metadata={"format": "pt"})
        return
    save_file(shards[-1], out / f"{name}-{len(shards):05d}.safetensors", metadata={"format": "pt"})
    final = {number: f"{name}-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)}
    for number, file in final.items():
        (out / f"{name}-{number:05d}.safetensors").rename(out / file)
    index = {"metadata": {"total_size": total}, "weight_map": {key: final[number] for key, number in places.items()}}
    (out / f"{name}.safetensors.index.json").write_bytes(orjson.dumps(index, option=orjson.OPT_INDENT_2) + b"\n")
