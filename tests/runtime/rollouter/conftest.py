"""Small random models in Hugging Face folders, and engines over them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ModelFolder = Callable[..., tuple[Any, Path]]


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """(transformers model in eval mode, its folder) for "qwen2", "qwen3", "qwen3moe" or "llama"; equal arguments,
    equal model.

    Norm weights and biases are random too: at their initial ones and zeros a wrong use of them would not show.
    """
    import torch
    import transformers
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.set_num_threads(1)
    made: dict[Any, tuple[Any, Path]] = {}

    def make(family: str = "qwen2", *, tied: bool = True, seed: int = 0, **changes: Any) -> tuple[Any, Path]:
        key = (family, tied, seed, *sorted(changes.items()))
        if key not in made:
            numbers: dict[str, Any] = {
                "vocab_size": 97,
                "hidden_size": 48,
                "intermediate_size": 80,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "max_position_embeddings": 512,
                "initializer_range": 0.1,
                "tie_word_embeddings": tied,
            }
            if family != "qwen2":
                numbers |= {"head_dim": 20, "attention_bias": not tied}
            if family == "qwen3moe":
                numbers |= {
                    "moe_intermediate_size": 24,
                    "num_experts": 6,
                    "num_experts_per_tok": 2,
                    "norm_topk_prob": tied,
                }
            name = "Qwen3Moe" if family == "qwen3moe" else family.capitalize()
            config = getattr(transformers, f"{name}Config")(**(numbers | changes))
            torch.manual_seed(seed)
            model = getattr(transformers, f"{name}ForCausalLM")(config).eval().requires_grad_(False)
            for name, parameter in model.named_parameters():
                if "norm" in name or "bias" in name:
                    parameter.normal_(mean=float("norm" in name), std=0.1)
            folder = tmp_path_factory.mktemp(family)
            model.save_pretrained(folder)
            made[key] = model, folder
        return made[key]

    return make


@pytest.fixture
def full_logprobs() -> Callable[..., list[float]]:
    """Log-probabilities of a reply by one full transformers forward, the reference for everything that is cached."""
    import torch

    def compute(model: Any, prompt: list[int], reply: list[int], temperature: float = 1.0) -> list[float]:
        logits = model(torch.tensor([[*prompt, *reply]])).logits[0, len(prompt) - 1 : -1]
        logprobs = torch.log_softmax(logits / (temperature or 1.0), -1)
        return logprobs.gather(1, torch.tensor(reply)[:, None])[:, 0].tolist()

    return compute
