"""What groups of siblings cost the trainer: as they are, with compiled layers, and as a tree of what they begin with.

    .venv-gpu/bin/python benchmarks/update.py --model DIR --groups 16 --siblings 16 --prompt 2200 --reply 600 [--json]

``DIR``: a model's folder; without weights in it they are random. The spec `one-gpu` is compiled with the fields of a
variant, and verl's actor gets trajectories of random tokens, no two rounds of the same lengths: log-probabilities,
then an update in one mini-batch, each timed with waiting for the GPU at both ends. Variants are processes of their
own; their log-probabilities of the first round are compared with the first variant's, and gradients' norms are told.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), *(place for place in sys.path if Path(place).resolve() != HERE)]

from benchmarks.mfu import alone, batch, configured  # noqa: E402

VARIANTS = {"plain": "varlen", "compiled": "varlen-compiled", "tree": "varlen-tree"}


def with_weights(folder: Path, into: Path) -> Path:
    if list(folder.glob("*.safetensors")):
        return folder
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    into.mkdir()
    for file in filter(Path.is_file, folder.iterdir()):  # its tokenizer
        shutil.copy(file, into)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.bfloat16).save_pretrained(into)
    return into


def trajectories(config: Any, arguments: argparse.Namespace, *, seed: int) -> Any:
    """Groups of rows that have their first tokens in common; prompts and replies of 0.7 to 1.3 times the length."""
    import torch

    chance = random.Random(seed)

    def about(length: int) -> int:
        return max(2, int(length * chance.uniform(0.7, 1.3)))

    prompts = [about(arguments.prompt) for _ in range(arguments.groups)]
    lengths = [(prompt, about(arguments.reply)) for prompt in prompts for _ in range(arguments.siblings)]
    made = batch(config, [prompt + reply for prompt, reply in lengths], prompt=1)
    torch.manual_seed(seed)
    shared = [torch.randint(2, config.vocab_size, (prompt,)) for prompt in prompts]
    rows, masks = list(made["input_ids"].unbind()), []
    for at, (prompt, reply) in enumerate(lengths):
        rows[at] = torch.cat([shared[at // arguments.siblings], torch.randint(2, config.vocab_size, (reply,))])
        # In verl's form a trajectory's response is what follows the first prompt.
        masks.append(torch.cat([torch.zeros(prompt - 1, dtype=torch.int64), torch.ones(reply, dtype=torch.int64)]))

    def jagged(values: list[Any]) -> Any:
        return torch.nested.as_nested_tensor(values, layout=torch.jagged)

    made["input_ids"], made["responses"] = jagged(rows), jagged([row[1:] for row in rows])
    made["response_mask"] = made["loss_mask"] = jagged(masks)
    return made


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        alone(run, with_weights(arguments.model.resolve(), run / "made"), arguments.device)
        return _measure(arguments, run)


def _measure(arguments: argparse.Namespace, run: Path) -> dict[str, Any]:
    import torch
    from omegaconf import OmegaConf
    from verl.utils import tensordict_utils
    from verl.workers.engine_workers import ActorRolloutRefWorker

    on_gpu = arguments.device == "cuda"
    arguments.length = int(1.3 * (arguments.prompt + arguments.reply)) + 2
    tree = configured(arguments, run, VARIANTS[arguments.variants])
    OmegaConf.set_struct(tree, False)
    worker = ActorRolloutRefWorker(tree.actor_rollout_ref, role="actor")
    worker.init_model()
    config = worker.actor.model_config.hf_config

    def timed(call: Any, data: Any) -> tuple[float, Any]:
        if on_gpu:
            torch.cuda.synchronize()
        started = time.perf_counter()
        found = call(data)
        if on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter() - started, found

    passes, updates, tokens, norms, first = [], [], [], [], None
    for seed in range(1 + arguments.rounds):
        data = trajectories(config, arguments, seed=seed)
        asked = data.clone()
        tensordict_utils.assign_non_tensor(asked, calculate_entropy=True, compute_loss=False, temperature=1.0)
        seconds, found = timed(worker.compute_log_prob, asked)
        passes.append(seconds)
        if first is None:
            first = found["log_probs"]
            torch.save([row[:-1].float() for row in first.unbind()], arguments.keep)
        seconds, found = timed(worker.update_actor, data)
        updates.append(seconds)
        norms.append(float(found["metrics"]["grad_norm"][0]))
        tokens.append(int(data["input_ids"].offsets()[-1]))
    share = found["metrics"].get("forwarded_tokens_share", [1.0])
    middle = sorted(range(1, 1 + arguments.rounds), key=lambda at: updates[at] + passes[at])[arguments.rounds // 2]
    return {
        "variant": arguments.variants,
        "rows": arguments.groups * arguments.siblings,
        "tokens": tokens[middle],
        "forwarded": round(float(sum(share) / len(share)), 3),
        "first_s": [round(passes[0], 2), round(updates[0], 2)],
        "log_probs_s": [round(one, 3) for one in passes[1:]],
        "update_s": [round(one, 3) for one in updates[1:]],
        "tokens_per_s": round(tokens[middle] / (passes[middle] + updates[middle])),
        "grad_norm": [round(one, 5) for one in norms],
        "gpu_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1) if on_gpu else 0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR")
    parser.add_argument("--groups", type=int, default=8, help="of one update")
    parser.add_argument("--siblings", type=int, default=16)
    parser.add_argument("--prompt", type=int, default=2200, help="tokens that siblings have in common, about")
    parser.add_argument("--reply", type=int, default=600, help="tokens of each, about")
    parser.add_argument("--tokens", type=int, default=32768, help="of one micro-batch")
    parser.add_argument("--rounds", type=int, default=3, help="that are timed, after one that is not")
    parser.add_argument("--recompute", action="store_true", help="gradient checkpointing")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one variant")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: only to see that it runs")
    parser.add_argument("--keep", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="a line of JSON for each variant")
    arguments = parser.parse_args()
    arguments.lora = 0
    if arguments.keep is not None:
        print("ROW", json.dumps(measure(arguments)))
        return
    import torch

    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("skipped: needs a GPU and `make install-gpu`")
        return
    with tempfile.TemporaryDirectory() as folder:
        kept: list[Path] = []
        for variant in arguments.variants.split(","):
            kept.append(Path(folder) / f"{variant}.pt")
            given = [one for one in sys.argv[1:] if one != "--json"]
            command = [sys.executable, __file__, *given, "--variants", variant, "--keep", str(kept[-1])]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=arguments.timeout, check=False)
            except subprocess.TimeoutExpired:
                print(f"{variant}: not done after {arguments.timeout:.0f} s", flush=True)
                continue
            line = next((one[4:] for one in done.stdout.splitlines() if one.startswith("ROW ")), None)
            if line is None:
                said = (done.stdout + done.stderr).splitlines()[-12:]
                print(f"{variant}: failed ({done.returncode})", *said, sep="\n  ", flush=True)
                continue
            row = json.loads(line)
            both = zip(torch.load(kept[0]), torch.load(kept[-1]), strict=True)
            apart = torch.cat([(one - other).abs() for one, other in both])
            row["log_probs_apart"] = [round(float(value), 5) for value in (apart.mean(), apart.max())]
            print(
                json.dumps(row) if arguments.json else "  ".join(f"{key} {value}" for key, value in row.items()),
                flush=True,
            )


if __name__ == "__main__":
    main()
