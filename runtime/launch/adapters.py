"""Low-rank adapters in a checkpoint as verl saves them: put into the weights, or taken apart for peft.

verl (0.9.1, ``fsdp_checkpoint_manager.py``) saves a model with adapters under peft's names, base weights and both
factors side by side, with rank and alpha in ``lora_train_meta.json``. One tensor is in memory at a time, beside those
of the file that is being written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from runtime.errors import UserError

META = "lora_train_meta.json"
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
    _write(((name.replace(".default.weight", ".weight"), tensors[name]) for name in names), out, name="adapter_model")
    modules = sorted({name.removesuffix(_A).rpartition(".")[2] for name in names if name.endswith(_A)})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": facts["r"],
        "lora_alpha": facts["lora_alpha"],
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": modules,
        "inference_mode": True,
    }
    (out / "adapter_config.json").write_bytes(orjson.dumps(config, option=orjson.OPT_INDENT_2) + b"\n")


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
