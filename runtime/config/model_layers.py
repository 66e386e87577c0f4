"""What a model's ``config.json`` says of its layers: whether some keep a state, and which mixtures' routers are known.

For checks before anything is loaded. Knows fields and names of transformers 5.10, neither torch nor files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

KNOWN_LAYERS = frozenset({"full_attention", "sliding_attention"})
"""Values of ``layer_types`` whose layers look at tokens alone. Of the others some keep a state, which cannot branch."""
REPLAYED = (
    *("gpt_oss", "mixtral", "olmoe", "qwen2_moe", "qwen3_moe", "qwen3_next", "qwen3_vl_moe", "qwen3_vl_moe_text"),
    *("qwen3_5_moe", "qwen3_5_moe_text"),
)
"""``model_type`` of mixtures whose routers ``runtime/trainer/replayed_experts.py`` knows."""
SHARED_PREFIXES, REPLAY_ENGINE = "runtime.trainer.shared_prefixes", "runtime.trainer.replay_engine"
COMPILED_LAYERS = "runtime.trainer.compiled_layers"
"""Modules that verl imports where it makes a model, by what the spec asks for."""
STATEFUL = "it has layers that may keep a state ({}), which cannot branch where rows share a beginning"
_BLOCKS = frozenset({"attention", "mlp", "moe"})
_STATE = re.compile(r".*(mamba|ssm|conv_kernel|conv_l_cache|lru_width|wkv).*|state_size")
_WITH_STATE = ("rwkv", "xlstm", "recurrent_gemma", "kimi_linear", "plamo2", "retnet", "hgrn", "hgrn2", "gla")
"""``model_type`` of models that say it in no field."""


def layers_with_state(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Kinds of layers that are not known to look at tokens alone, by the name in the file; none where there are none.
    A list of kinds goes before what else the file holds."""
    text = _text(config)
    for field, known in (("layer_types", KNOWN_LAYERS), ("layers_block_type", _BLOCKS), ("block_types", _BLOCKS)):
        kinds = text.get(field)
        if isinstance(kinds, list | tuple) and kinds:
            return tuple(sorted({str(kind) for kind in kinds} - known))
    if "M" in str(text.get("hybrid_override_pattern") or ""):
        return ("mamba",)
    if str(text.get("model_type")) in _WITH_STATE:
        return (str(text["model_type"]),)
    return tuple(sorted(str(name) for name, value in text.items() if value and _STATE.fullmatch(str(name).lower())))


def routers_unknown(config: Mapping[str, Any]) -> str:
    """Why the experts of this model cannot be replayed by LiveRL's own engine; empty where they can."""
    kind = str(config.get("model_type"))
    if kind in REPLAYED or str(_text(config).get("model_type")) in REPLAYED:
        return ""
    return f"its model_type is {kind!r}, whose routers are not known; experts are replayed in {', '.join(REPLAYED)}"


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part on the language model."""
    text = config.get("text_config")
    return text if isinstance(text, Mapping) else config
