"""verl's FSDP engine on rows one by one, as a tree, or with compiled layers: log-probabilities, entropies, and
gradients of a loss.

    python shared_prefixes_program.py MODEL RESULT.pt EXTERNAL_LIB

Each in a process of its own: one takes the place of the other.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import torch

import runtime.laptop.verl_cpu  # noqa: F401  # before verl's workers
from runtime.trainer.cuda.varlen import NAME


def rows() -> list[list[int]]:
    """Two sessions: branches in branches, one a beginning of another, the same row twice, and a row of its own."""
    torch.manual_seed(1)
    words = torch.randint(0, 50, (60,)).tolist()
    first = [words[:20] + words[30:44], words[:20] + words[31:40], words[:26], words[:20] + words[30:38] + [1, 2, 3]]
    return [first[0], [7, 8, 9], first[1], first[0][:22], first[2], first[3], first[0], words[40:]]


def batch(**settings: Any) -> Any:
    from verl.utils import tensordict_utils

    told = [torch.tensor(row) for row in rows()]
    generator = torch.Generator().manual_seed(2)
    weights = [torch.randn(len(row), generator=generator) for row in told]
    masks = [torch.cat([torch.zeros(1), torch.ones(len(row) - 1)]) for row in told]

    def nested(values: list[torch.Tensor]) -> torch.Tensor:
        return torch.nested.as_nested_tensor(values, layout=torch.jagged)

    made = {
        "input_ids": nested(told),
        "position_ids": nested([torch.arange(len(row)) for row in told]),
        "loss_mask": nested(masks),
        "weights": nested(weights),
    }
    shared = {"use_remove_padding": True, "temperature": 0.7, "calculate_entropy": True, "return_model_output": True}
    return tensordict_utils.get_tensordict(made, {**shared, **settings})


def engine(model: str, *, fused: bool) -> Any:
    from verl.trainer.config import CheckpointConfig
    from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig
    from verl.workers.engine.base import EngineRegistry

    made = EngineRegistry.new(
        model_type="language_model",
        backend="fsdp2",
        model_config=HFModelConfig(
            path=model,
            load_tokenizer=False,
            external_lib=sys.argv[3],
            override_config={"attn_implementation": NAME},
            enable_gradient_checkpointing=True,
            use_remove_padding=True,
            use_fused_kernels=fused,
            fused_kernel_options={"impl_backend": "torch"},
        ),
        engine_config=FSDPEngineConfig(
            strategy="fsdp2",
            use_torch_compile=False,
            mixed_precision={"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"},
        ),
        optimizer_config=FSDPOptimizerConfig(lr=1e-3, total_training_steps=1),
        checkpoint_config=CheckpointConfig(),
    )
    made.initialize()
    return made


def loss(model_output: Any, data: Any, dp_group: Any = None) -> tuple[torch.Tensor, dict[str, Any]]:
    """Of what predicts a row's tokens but the first: what verl says of the last token is of the next row's."""
    total = torch.zeros(())
    for name in ("log_probs", "entropy"):
        for found, weight in zip(model_output[name].unbind(), data["weights"].unbind(), strict=True):
            total = total + (found[:-1] * weight[:-1]).sum()
    return total / 200, {}


def count(seen: list[int], _module: Any, _args: Any, inputs: dict[str, Any]) -> None:
    seen.append(inputs["input_ids"].numel())


def main() -> None:
    # Traced and taken apart as for any GPU; what a C++ compiler would make of it is torch's own affair.
    torch.compiler.set_default_backend("aot_eager")
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    found = {}
    for fused in (True,) if sys.argv[3].endswith("compiled_layers") else (False, True):
        one = engine(sys.argv[1], fused=fused)
        seen: list[int] = []
        one.module.model.register_forward_pre_hook(partial(count, seen), with_kwargs=True)
        for name, settings in {
            "tokens": {"use_dynamic_bsz": True, "max_token_len_per_gpu": 60},
            "rows": {"use_dynamic_bsz": False, "micro_batch_size_per_gpu": 4},
        }.items():
            one.optimizer_zero_grad()
            seen.clear()
            with one.train_mode():
                output = one.forward_backward_batch(batch(use_fused_kernels=fused, **settings), loss)["model_output"]
                gradients = {name: part.grad.full_tensor().clone() for name, part in one.module.named_parameters()}
            told = {name: [row[:-1] for row in output[name].unbind()] for name in ("log_probs", "entropy")}
            found[f"{name}, fused {fused}"] = {"seen": list(seen), "gradients": gradients, **told}
    found["graphs"] = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    torch.save(found, sys.argv[2])


if __name__ == "__main__":
    main()
