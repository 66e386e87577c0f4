"""Model FLOPs utilisation of the trainer's update, as LiveRL configures it: verl's own worker, in this process.

    .venv-gpu/bin/python benchmarks/mfu.py --shape qwen3-4b --lora 16 --tokens 16384 --recompute [--json]

The spec `one-gpu` is compiled with the flags below, and verl's actor gets one mini-batch of packed sequences of random
tokens: forward, backward and the optimizer's step are timed, waiting for the GPU at both ends. Each variant is a
process of its own.

Operations are counted as prime-rl's ``PerfCounter`` does (src/prime_rl/trainer/perf.py): 6 for each weight that a token
passes in a matrix product, the output layer included (with LoRA 4, and 6 for the adapter's own), and 12 x layers x
hidden size x length for attention, without a discount for the causal half; recomputation counts nothing. The peak is
989e12 for a Hopper GPU in bf16. verl's own figure, which counts 6 for frozen weights too, stands beside it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# Or the benchmark vllm.py, which lies beside this one, would be vLLM.
HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), *(place for place in sys.path if Path(place).resolve() != HERE)]

from benchmarks._models import SHAPES, make_model  # noqa: E402
from runtime.config.model_layers import COMPILED_LAYERS, SHARED_PREFIXES  # noqa: E402

PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
MODEL = "actor_rollout_ref.model"
VARIANTS: dict[str, tuple[list[str], list[str]]] = {
    # name: (fields of the spec, overrides of verl's file)
    "varlen": (['trainer.attention="varlen"'], []),
    "varlen-whole-logits": (['trainer.attention="varlen"'], [f"{MODEL}.use_fused_kernels=false"]),
    "varlen-triton-head": (['trainer.attention="varlen"'], [f"++{MODEL}.fused_kernel_options.impl_backend=triton"]),
    "varlen-compiled": (['trainer.attention="varlen"', "trainer.compile=true"], []),
    "varlen-tree": (['trainer.attention="varlen"', "trainer.share_prefixes=true"], []),
    "sdpa-padded": (['trainer.attention="sdpa"'], []),
    "sdpa-packed": (['trainer.attention="sdpa"'], [f"{MODEL}.use_remove_padding=true"]),
}


def operations(config: Any, lengths: list[int], *, lora: int) -> float:
    """Of a forward and a backward pass, as prime-rl counts them."""
    layers, hidden, size = config.num_hidden_layers, config.hidden_size, config.head_dim
    queries, keys = config.num_attention_heads * size, config.num_key_value_heads * size
    inner = config.intermediate_size
    matrices = [(hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden)]
    matrices += [(hidden, inner), (hidden, inner), (inner, hidden)]
    weights = layers * sum(into * out for into, out in matrices) + config.vocab_size * hidden
    adapter = layers * sum(lora * (into + out) for into, out in matrices)
    a_token = 4 * weights + 6 * adapter if lora else 6 * weights
    a_pair = 12 * layers * config.num_attention_heads * (hidden // config.num_attention_heads)
    return float(a_token * sum(lengths) + a_pair * sum(length * length for length in lengths))


def batch(config: Any, lengths: list[int], *, prompt: int) -> Any:
    import torch
    from verl.utils import tensordict_utils as tu

    torch.manual_seed(1)

    def jagged(rows: list[Any]) -> Any:
        return torch.nested.as_nested_tensor(rows, layout=torch.jagged)

    rows = [torch.randint(2, config.vocab_size, (length,)) for length in lengths]
    answers = [length - prompt for length in lengths]
    tensors = {
        "input_ids": jagged(rows),
        "position_ids": jagged([torch.arange(length) for length in lengths]),
        "prompts": jagged([row[:prompt] for row in rows]),
        "responses": jagged([row[prompt:] for row in rows]),
        "response_mask": jagged([torch.ones(answer, dtype=torch.int64) for answer in answers]),
        "loss_mask": jagged([torch.ones(answer, dtype=torch.int64) for answer in answers]),
        "old_log_probs": jagged([torch.full((answer,), -math.log(config.vocab_size)) for answer in answers]),
        "advantages": jagged([torch.randn(()).expand(answer).contiguous() for answer in answers]),
    }
    return tu.get_tensordict(
        tensors,
        {
            "calculate_entropy": False,
            "distillation_use_topk": False,
            "distillation_only": False,
            "global_batch_size": len(lengths),
            "mini_batch_size": len(lengths),
            "epochs": 1,
            "seed": 0,
            "dataloader_kwargs": {"shuffle": False},
            "temperature": 1.0,
        },
    )


def configured(arguments: argparse.Namespace, run: Path, variant: str) -> Any:
    """What verl's task runner would read."""
    import hydra

    from compiler import compile_spec

    fields, overrides = VARIANTS[variant]
    longest = max(arguments.tokens, arguments.length)
    spec, sets = ("one-gpu", fields) if arguments.device == "cuda" else ("quickstart", [])
    sets = [
        *sets,
        "policy=" + json.dumps({"type": "pretrained", "path": str(run / "policy")}),
        f"rollout.prompt_length={arguments.prompt}",
        f"rollout.response_length={arguments.length - arguments.prompt}",
        "tasks.baselines=false",
        f"trainer.max_tokens_per_rank={longest}",
        f"trainer.gradient_checkpointing={json.dumps(arguments.recompute)}",
    ]
    if arguments.lora:
        overrides = [*overrides, f"{MODEL}.lora_rank={arguments.lora}", f"{MODEL}.lora_alpha={2 * arguments.lora}"]
        overrides = [*overrides, f"{MODEL}.target_modules=all-linear"]
    if arguments.device == "cpu" and variant.startswith("varlen"):
        owns = {"varlen-compiled": COMPILED_LAYERS, "varlen-tree": SHARED_PREFIXES}
        own = owns.get(variant, "runtime.trainer.cuda.varlen")
        overrides = [*overrides, f"++{MODEL}.external_lib={own}", f"{MODEL}.use_remove_padding=true"]
        overrides = [*overrides, f"++{MODEL}.override_config.attn_implementation=liverl_varlen"]
        overrides = [
            *overrides,
            f"{MODEL}.use_fused_kernels=true",
            f"++{MODEL}.fused_kernel_options.impl_backend=torch",
        ]
    compile_spec(HERE.parent / "specs" / f"{spec}.jsonnet", out=run / "bundle", sets=sets)
    found = importlib.util.find_spec("verl")
    assert found is not None and found.origin is not None
    path = f"hydra.searchpath=[file://{Path(found.origin).parent}/trainer/config]"
    with hydra.initialize_config_dir(config_dir=str(run / "bundle"), version_base=None):
        return hydra.compose(config_name="verl", overrides=[path, *overrides])


def alone(run: Path, model: Path, device: str) -> None:
    """This process is the only worker of a run in ``run``, whose policy is ``model``."""
    (run / "policy").symlink_to(model)
    os.environ |= {"LIVERL_RUN_DIR": str(run), "LIVERL_RAY_DIR": str(run / "ray"), "RANK": "0", "WORLD_SIZE": "1"}
    os.environ |= {"LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "WG_BACKEND": "ray", "HF_HUB_OFFLINE": "1"}
    os.environ |= {"DIST_INIT_METHOD": f"file://{run}/meet", "VERL_USE_EXTERNAL_PLUGINS": "none"}
    os.environ["MASTER_PORT"] = "29571"
    if device == "cpu":
        os.environ |= {"VERL_USE_EXTERNAL_MODULES": "runtime.laptop.verl_cpu", "VERL_PLATFORM": "cpu"}
        os.environ["VERL_ENGINE_DEVICE"] = "cuda"


def measure(arguments: argparse.Namespace, variant: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        model = make_model(arguments.models / arguments.shape, arguments.shape, length=32768)
        alone(run, model, arguments.device)
        return _measure(arguments, run, variant)


def _measure(arguments: argparse.Namespace, run: Path, variant: str) -> dict[str, Any]:
    import torch
    from omegaconf import OmegaConf
    from verl.workers.engine_workers import ActorRolloutRefWorker

    on_gpu = arguments.device == "cuda"
    tree = configured(arguments, run, variant)
    OmegaConf.set_struct(tree, False)
    began = time.monotonic()
    worker = ActorRolloutRefWorker(tree.actor_rollout_ref, role="actor")
    worker.init_model()
    config = worker.actor.model_config.hf_config
    count = max(1, arguments.tokens * arguments.micro_batches // arguments.length)
    lengths = [arguments.length] * count
    data = batch(config, lengths, prompt=arguments.prompt)
    name = torch.cuda.get_device_name() if on_gpu else "cpu"
    peak = next((value for key, value in PEAK.items() if key in name), float("nan"))
    ready, seconds, found = time.monotonic() - began, [], {}
    for _ in range(1 + arguments.updates):
        if on_gpu:
            torch.cuda.synchronize()
        started = time.perf_counter()
        found = worker.update_actor(data.clone())["metrics"]
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    middle = sorted(seconds[1:])[arguments.updates // 2]
    return {
        "variant": variant,
        "shape": arguments.shape,
        "lora": arguments.lora,
        "sequences": f"{count} x {arguments.length}",
        "recompute": arguments.recompute,
        "first_s": round(seconds[0], 3),
        "update_s": [round(one, 3) for one in seconds[1:]],
        "tokens_per_s": round(sum(lengths) / middle),
        "mfu": round(operations(config, lengths, lora=arguments.lora) / middle / peak, 4),
        "mfu_as_verl_counts": [round(float(one), 4) for one in found["mfu"]],
        "gpu_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1) if on_gpu else 0,
        "grad_norm": [round(float(one), 5) for one in found["grad_norm"]],
        "ready_s": round(ready, 1),
        "device": name,
        "torch": torch.__version__,
    }


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="qwen3-4b")
    parser.add_argument("--lora", type=int, default=0, metavar="RANK", help="0: all weights are trained")
    parser.add_argument("--tokens", type=int, default=16384, help="of one micro-batch")
    parser.add_argument("--length", type=int, default=16384, help="of one sequence")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of it that are not trained")
    parser.add_argument("--micro-batches", type=int, default=2, help="of one update")
    parser.add_argument("--updates", type=int, default=3, help="that are timed, after one that is not")
    parser.add_argument("--recompute", action="store_true", help="gradient checkpointing")
    parser.add_argument("--variants", default="varlen", help=f"by commas: {', '.join(VARIANTS)}")
    parser.add_argument("--models", type=Path, default=Path(tempfile.gettempdir()) / "liverl-shapes")
    parser.add_argument("--timeout", type=float, default=240, help="seconds for one variant")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: only to see that it runs")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="a line of JSON for each variant")
    arguments = parser.parse_args()
    if arguments.one:
        print("MFU", json.dumps(measure(arguments, arguments.variants)))
        return
    if arguments.device == "cuda" and not _has_gpu():
        print("skipped: needs a GPU and `make install-gpu`")
        return
    for variant in arguments.variants.split(","):
        given = [one for one in sys.argv[1:] if one != "--json"]
        command = [sys.executable, __file__, *given, "--variants", variant, "--one"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=arguments.timeout, check=False)
            said, code = done.stdout + done.stderr, str(done.returncode)
        except subprocess.TimeoutExpired as expired:
            said, code = (expired.stdout or b"").decode(errors="replace"), f"{arguments.timeout:.0f} s"
        line = next((one[4:] for one in said.splitlines() if one.startswith("MFU ")), None)
        if line is None:
            print(f"{variant}: failed ({code})", *said.splitlines()[-12:], sep="\n  ", flush=True)
        else:
            row = json.loads(line)
            print(line if arguments.json else "  ".join(f"{key} {value}" for key, value in row.items()), flush=True)


if __name__ == "__main__":
    main()
