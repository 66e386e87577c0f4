"""Models of published shapes with random weights, for benchmarks: nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    "qwen3-4b": {
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
    },
    "qwen3-0.6b": {
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
    },
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": 512,
    },
}


def config_of(shape: str, *, length: int) -> Any:
    from transformers import Qwen3Config

    return Qwen3Config(**SHAPES[shape], tie_word_embeddings=True, max_position_embeddings=length, rope_theta=1e6)


def make_model(folder: Path, shape: str, *, length: int, weights: bool = True, seed: int = 0) -> Path:
    """A folder as `save_pretrained` makes it, in bf16, with a tokenizer of bytes. Made once."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    done = folder / ".made"
    if done.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    config = config_of(shape, length=length)
    config.architectures = ["Qwen3ForCausalLM"]
    config.dtype = "bfloat16"
    config.eos_token_id, config.pad_token_id = 1, 0
    config.save_pretrained(folder)
    words = {"<pad>": 0, "<eos>": 1}
    words |= {letter: at + 2 for at, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    words |= {f"<{number}>": number for number in range(len(words), SHAPES[shape]["vocab_size"])}
    core = Tokenizer(models.BPE(vocab=words, merges=[]))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token="<pad>")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}\n{{ m['content'] }}<eos>{% endfor %}"
        "{% if add_generation_prompt %}assistant\n{% endif %}"
    )
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 1}))
    if weights:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        torch.manual_seed(seed)
        state = {}
        for name, tensor in model.state_dict().items():
            if name == "lm_head.weight":
                continue
            made = torch.ones if tensor.dim() == 1 else torch.randn
            scale = 1.0 if tensor.dim() == 1 else 0.02
            state[name] = (made(tensor.shape, device=device) * scale).to(torch.bfloat16).cpu()
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    done.touch()
    return folder
