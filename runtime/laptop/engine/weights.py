"""The weights of a small Qwen2, Qwen3 (dense or a mixture of experts) or Llama as the CPU engine uses them: read from a
Hugging Face folder, checked, packed, fingerprinted.

Knows the architecture's parameter names and shapes (transformers' ``models/qwen2``, ``qwen3``, ``qwen3_moe`` and
``llama``). Does not know how a forward pass runs, nor what a version is. A ``Weights`` object is never changed: an
update makes another one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from runtime.errors import UserError
from runtime.laptop.engine.linear import Linear
from runtime.laptop.engine.mlp import Mixture, Mlp
from runtime.rollouter.fingerprint import fingerprint


@dataclass(frozen=True)
class Architecture:
    """The numbers of ``config.json`` that a forward pass needs. ``qkv_bias``/``out_bias``: biases of attention;
    ``qk_norm``: Qwen3. ``experts``: 0 for a dense model; otherwise ``intermediate_size`` is that of one expert."""

    vocabulary_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    max_position: int
    tied: bool
    qkv_bias: bool
    out_bias: bool
    qk_norm: bool
    experts: int = 0
    experts_per_token: int = 0
    experts_normed: bool = False

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, where: str = "config.json") -> Architecture:
        """From the content of a ``config.json``. Raises ``UserError`` for what this engine does not compute exactly."""
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        layer_types = config.get("layer_types") or []
        checks: dict[str, tuple[Any, tuple[Any, ...]]] = {
            "model_type": (config.get("model_type"), ("qwen2", "qwen3", "qwen3_moe", "llama")),
            "hidden_act": (config.get("hidden_act", "silu"), ("silu",)),
            "rope_type": (rope.get("rope_type", "default"), ("default",)),
            "mlp_bias": (bool(config.get("mlp_bias", False)), (False,)),
            "use_sliding_window": (config.get("use_sliding_window") or "sliding_attention" in layer_types, (False,)),
            "mlp_only_layers": (config.get("mlp_only_layers") or [], ([],)),
            "decoder_sparse_step": (config.get("decoder_sparse_step", 1), (1,)),
        }
        problems = [
            f"{where}: {key}: {value!r} is not supported by the CPU engine; allowed: {', '.join(map(repr, allowed))}; "
            "use a vLLM engine for this model"
            for key, (value, allowed) in checks.items()
            if value not in allowed
        ]
        if problems:
            raise UserError(*problems)
        qwen2, mixture = config["model_type"] == "qwen2", config["model_type"] == "qwen3_moe"
        bias = bool(config.get("attention_bias", False))
        num_heads = int(config["num_attention_heads"])
        # Published models have the first name, transformers 5 writes the second.
        experts = int(config.get("num_experts") or config["num_local_experts"]) if mixture else 0
        return cls(
            vocabulary_size=int(config["vocab_size"]),
            hidden_size=int(config["hidden_size"]),
            intermediate_size=int(config["moe_intermediate_size" if mixture else "intermediate_size"]),
            num_layers=int(config["num_hidden_layers"]),
            num_heads=num_heads,
            num_key_value_heads=int(config.get("num_key_value_heads") or num_heads),
            head_dim=int(config.get("head_dim") or config["hidden_size"] // num_heads),
            rms_norm_eps=float(config["rms_norm_eps"]),
            rope_theta=float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0),
            max_position=int(config["max_position_embeddings"]),
            tied=bool(config.get("tie_word_embeddings", False)),
            qkv_bias=qwen2 or bias,
            out_bias=not qwen2 and bias,
            qk_norm=config["model_type"] in ("qwen3", "qwen3_moe"),
            experts=experts,
            experts_per_token=int(config["num_experts_per_tok"]) if mixture else 0,
            experts_normed=mixture and bool(config.get("norm_topk_prob", False)),
        )

    def mlps(self, prefix: str) -> list[str]:
        """Prefixes of a layer's MLPs: its own, or its experts'."""
        if not self.experts:
            return [f"{prefix}mlp."]
        return [f"{prefix}mlp.experts.{number}." for number in range(self.experts)]

    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Every parameter's Hugging Face name and shape."""
        hidden, inner, dim = self.hidden_size, self.intermediate_size, self.head_dim
        queries, keys = self.num_heads * dim, self.num_key_value_heads * dim
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary_size, hidden)}
        for index in range(self.num_layers):
            prefix = f"model.layers.{index}."
            for name, rows in (("q", queries), ("k", keys), ("v", keys)):
                shapes[f"{prefix}self_attn.{name}_proj.weight"] = (rows, hidden)
                if self.qkv_bias:
                    shapes[f"{prefix}self_attn.{name}_proj.bias"] = (rows,)
            shapes[f"{prefix}self_attn.o_proj.weight"] = (hidden, queries)
            if self.out_bias:
                shapes[f"{prefix}self_attn.o_proj.bias"] = (hidden,)
            if self.qk_norm:
                shapes[f"{prefix}self_attn.q_norm.weight"] = (dim,)
                shapes[f"{prefix}self_attn.k_norm.weight"] = (dim,)
            for mlp in self.mlps(prefix):
                shapes[f"{mlp}gate_proj.weight"] = (inner, hidden)
                shapes[f"{mlp}up_proj.weight"] = (inner, hidden)
                shapes[f"{mlp}down_proj.weight"] = (hidden, inner)
            if self.experts:
                shapes[f"{prefix}mlp.gate.weight"] = (self.experts, hidden)
            shapes[f"{prefix}input_layernorm.weight"] = (hidden,)
            shapes[f"{prefix}post_attention_layernorm.weight"] = (hidden,)
        shapes["model.norm.weight"] = (hidden,)
        if not self.tied:
            shapes["lm_head.weight"] = (self.vocabulary_size, hidden)
        return shapes


def state_fingerprint(architecture: Architecture, state: Mapping[str, Tensor]) -> str:
    """What an engine that serves ``state`` (Hugging Face names, float32 or narrower) must answer as its fingerprint.

    Only the architecture's parameters count, so that a tied model's second name for its embedding changes nothing.
    Raises ``ValueError`` when one is missing.
    """
    names = architecture.parameters()
    if missing := sorted(names.keys() - state.keys()):
        raise ValueError(f"{len(missing)} tensors are missing, first: {', '.join(missing[:3])}")
    return fingerprint({name: state[name] for name in names})


@dataclass(frozen=True)
class Layer:
    """One decoder layer, packed: ``qkv`` [(H + 2 KV) D, C], ``qk_norm`` [H + KV, D] or None."""

    attention_norm: Tensor
    qkv: Linear
    qk_norm: Tensor | None
    out: Linear
    mlp_norm: Tensor
    mlp: Mlp | Mixture


@dataclass(frozen=True)
class Weights:
    """A whole policy in float32. ``head`` works on ``embedding`` itself when the two are tied."""

    architecture: Architecture
    embedding: Tensor
    layers: tuple[Layer, ...]
    norm: Tensor
    head: Linear

    @classmethod
    def load(cls, folder: Path) -> Weights:
        """From a Hugging Face folder (``config.json`` and one or many safetensors). Raises ``UserError`` naming what is
        wrong."""
        config_file = folder / "config.json"
        if not config_file.is_file():
            raise UserError(f"{folder}: no config.json; give a Hugging Face model folder")
        architecture = Architecture.from_config(json.loads(config_file.read_text()), where=str(config_file))
        files = sorted(folder.glob("model*.safetensors"))
        if not files:
            raise UserError(
                f"{folder}: no model*.safetensors; save the model with save_pretrained(safe_serialization=True)"
            )
        state: dict[str, Tensor] = {}
        for file in files:
            state.update(load_file(file))
        try:
            return cls.pack(architecture, state)
        except ValueError as error:
            raise UserError(f"{folder}: {error}") from None

    @classmethod
    def pack(cls, architecture: Architecture, state: Mapping[str, Tensor]) -> Weights:
        """Copies of the tensors of ``state`` (Hugging Face names, any float type). Raises ``ValueError`` on a missing,
        unknown or misshapen tensor. A tied model's ``lm_head.weight`` and rotary buffers are accepted and not used."""
        shapes = architecture.parameters()
        unused = {"lm_head.weight"} if architecture.tied else set()
        missing = shapes.keys() - state.keys()
        unknown = {name for name in state.keys() - shapes.keys() - unused if not name.endswith("rotary_emb.inv_freq")}
        misshapen = {name for name, shape in shapes.items() if name in state and tuple(state[name].shape) != shape}
        for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", misshapen)):
            if names:
                raise ValueError(f"{len(names)} tensors are {what}, first: {', '.join(sorted(names)[:3])}")

        def joined(prefix: str, names: tuple[str, ...], suffix: str) -> Tensor:
            return torch.cat([state[f"{prefix}{name}{suffix}"].detach().float().cpu() for name in names])

        def single(name: str) -> Tensor:
            return joined(name, ("",), "")

        def mlp(prefix: str) -> Mlp | Mixture:
            mlps = tuple(
                Mlp(
                    gate_up=Linear(joined(one, ("gate_proj", "up_proj"), ".weight")),
                    down=Linear(single(one + "down_proj.weight")),
                )
                for one in architecture.mlps(prefix)
            )
            if not architecture.experts:
                return mlps[0]
            router = single(prefix + "mlp.gate.weight")
            return Mixture(router, mlps, architecture.experts_per_token, architecture.experts_normed)

        def layer(index: int) -> Layer:
            prefix = f"model.layers.{index}."
            attention = prefix + "self_attn."
            projections = ("q_proj", "k_proj", "v_proj")
            heads, kv_heads, dim = architecture.num_heads, architecture.num_key_value_heads, architecture.head_dim
            qk_norm = None
            if architecture.qk_norm:
                query_norm, key_norm = single(attention + "q_norm.weight"), single(attention + "k_norm.weight")
                qk_norm = torch.cat([query_norm.expand(heads, dim), key_norm.expand(kv_heads, dim)])
            return Layer(
                attention_norm=single(prefix + "input_layernorm.weight"),
                qkv=Linear(
                    joined(attention, projections, ".weight"),
                    joined(attention, projections, ".bias") if architecture.qkv_bias else None,
                ),
                qk_norm=qk_norm,
                out=Linear(
                    single(attention + "o_proj.weight"),
                    single(attention + "o_proj.bias") if architecture.out_bias else None,
                ),
                mlp_norm=single(prefix + "post_attention_layernorm.weight"),
                mlp=mlp(prefix),
            )

        embedding = single("model.embed_tokens.weight")
        return cls(
            architecture=architecture,
            embedding=embedding,
            layers=tuple(layer(index) for index in range(architecture.num_layers)),
            norm=single("model.norm.weight"),
            head=Linear(embedding if architecture.tied else single("lm_head.weight")),
        )

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The tensors that are really served, under their Hugging Face names: views of the packed ones, each parameter
        once."""
        arch = self.architecture
        queries, keys = arch.num_heads * arch.head_dim, arch.num_key_value_heads * arch.head_dim
        yield "model.embed_tokens.weight", self.embedding
        for index, layer in enumerate(self.layers):
            prefix = f"model.layers.{index}."
            attention = prefix + "self_attn."
            for suffix, packed in ((".weight", layer.qkv.weight), (".bias", layer.qkv.bias)):
                if packed is not None:
                    for name, part in zip("qkv", torch.split(packed, [queries, keys, keys]), strict=True):
                        yield f"{attention}{name}_proj{suffix}", part
            yield attention + "o_proj.weight", layer.out.weight
            if layer.out.bias is not None:
                yield attention + "o_proj.bias", layer.out.bias
            if layer.qk_norm is not None:
                yield attention + "q_norm.weight", layer.qk_norm[0]
                yield attention + "k_norm.weight", layer.qk_norm[arch.num_heads]
            mlps = layer.mlp.experts if isinstance(layer.mlp, Mixture) else (layer.mlp,)
            for place, mlp in zip(arch.mlps(prefix), mlps, strict=True):
                gate, up = mlp.gate_up.weight.chunk(2)
                yield place + "gate_proj.weight", gate
                yield place + "up_proj.weight", up
                yield place + "down_proj.weight", mlp.down.weight
            if isinstance(layer.mlp, Mixture):
                yield prefix + "mlp.gate.weight", layer.mlp.router
            yield prefix + "input_layernorm.weight", layer.attention_norm
            yield prefix + "post_attention_layernorm.weight", layer.mlp_norm
        yield "model.norm.weight", self.norm
        if not arch.tied:
            yield "lm_head.weight", self.head.weight
