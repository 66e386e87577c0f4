"""What a run's reinforcement would come to, in seconds instead of minutes: to choose settings, not to report scores.

    python scripts/simulate.py RUN [--steps N] [--learning-rate F] [--prompts N] [--mini-batch N] [--draws N]

Takes the warm-started policy of a finished or interrupted quickstart run and repeats its GRPO with the answers of
surveys (``runtime/laptop/tools/survey.py``) in the place of sandboxes, and with transformers in the place of engine
and trainer. Simplified: a decision is one of the tools' names and nothing else, and all tokens of a step are computed
anew each turn. Prints one line of JSON per draw (another order of tasks, other samples).
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer
from transformers import Qwen2ForCausalLM

from runtime.config import ShellScaffold, SynthSource, TaskSet, load_runtime_config
from runtime.laptop.policy.demonstrations import Ground, call, observe
from runtime.laptop.policy.encoding import Encoder
from runtime.laptop.policy.grounds import survey_generated
from runtime.laptop.tools.debugger import NOTHING, SOLVED, UNDONE
from runtime.laptop.tools.repairs import REPAIRS

TOOLS = ("run", "next", "submit", *REPAIRS)
AT_ONCE = 64


@dataclass
class Walk:
    """One trajectory. ``acts``: (position of the decision's token, tool, its log-probability)."""

    ground: Ground
    ids: list[int]
    acts: list[tuple[int, int, float]] = field(default_factory=list)
    position: int = 0
    edits: int = 0
    started: bool = False
    solved: bool = False
    done: bool = False


class World:
    """Answers tool calls from surveys, as ``shell/debugger.py`` answers them from a repository."""

    def __init__(self, tokenizer: Tokenizer, shell: ShellScaffold, max_tokens: int) -> None:
        self._encoder = Encoder(tokenizer)
        self._shell, self._max_tokens = shell, max_tokens
        calls = [self._encoder.text(call(tool)) for tool in TOOLS]
        assert all(len(ids) == 2 for ids in calls), "a tool's name must be one token"
        self._call, self.tools = calls[0][0], torch.tensor([ids[1] for ids in calls])
        self._opening = [*self._encoder.message("assistant", "")[:1], self._call]

    def begin(self, ground: Ground) -> Walk:
        return Walk(ground, [*self._encoder.message("user", ground.instruction), *self._opening])

    def act(self, walk: Walk, tool: int, logprob: float) -> None:
        walk.acts.append((len(walk.ids) - 1, tool, logprob))
        walk.ids += [int(self.tools[tool]), self._encoder.end]
        answer = self._answer(walk, TOOLS[tool])
        over = walk.edits >= self._shell.max_edits or len(walk.acts) >= self._shell.max_turns
        tokens = self._encoder.message("tool", answer)
        if walk.solved or over or TOOLS[tool] == "submit" or len(walk.ids) + len(tokens) > self._max_tokens:
            walk.done = True
        else:
            walk.ids += [*tokens, *self._opening]

    def _answer(self, walk: Walk, name: str) -> str:
        stops = walk.ground.survey["stops"]
        if name == "run":
            walk.started, walk.position = True, 0
            return f"{walk.ground.survey['failure']}\n{stops[0]['text']}"
        if not walk.started:
            return "run first"
        said = ""
        if name not in ("next", "submit"):
            walk.edits += 1
            outcomes = stops[walk.position % len(stops)]["repairs"]
            if outcomes.get(name):
                walk.solved = True
                return SOLVED
            said = f"{UNDONE if name in outcomes else NOTHING}\n"
        walk.position += 1
        return said + observe(stops, walk.position)


class Simulation:
    def __init__(self, model: Qwen2ForCausalLM, world: World, device: str) -> None:
        self._model, self._world, self._device = model.to(device), world, device

    def logits(self, walks: Sequence[Walk], rows: list[int], positions: list[int]) -> torch.Tensor:
        """Of every tool at ``positions`` of the walks ``rows``: (decisions, tools)."""
        longest = max(len(walk.ids) for walk in walks)
        ids = torch.zeros(len(walks), longest, dtype=torch.long)
        for at, walk in enumerate(walks):
            ids[at, : len(walk.ids)] = torch.tensor(walk.ids)
        # Right padding under a causal mask needs no attention mask.
        hidden = self._model.model(input_ids=ids.to(self._device), use_cache=False).last_hidden_state
        chosen: torch.Tensor = self._model.lm_head(hidden[rows, positions])[:, self._world.tools.to(self._device)]
        return chosen

    @torch.no_grad()
    def play(self, grounds: Sequence[Ground], *, greedy: bool, generator: torch.Generator) -> list[Walk]:
        walks = [self._world.begin(ground) for ground in grounds]
        while living := [walk for walk in walks if not walk.done]:
            for start in range(0, len(living), AT_ONCE):
                part = living[start : start + AT_ONCE]
                ends = [len(walk.ids) - 1 for walk in part]
                logprobs = self.logits(part, list(range(len(part))), ends).log_softmax(-1).cpu()
                tools = (
                    logprobs.argmax(-1)
                    if greedy
                    else torch.multinomial(logprobs.exp(), 1, generator=generator).squeeze(-1)
                )
                for walk, tool, row in zip(part, tools.tolist(), logprobs.tolist(), strict=True):
                    self._world.act(walk, tool, row[tool])
        return walks

    def score(self, grounds: Sequence[Ground], generator: torch.Generator) -> dict[str, float]:
        """Per cent solved, greedy and sampled."""
        rates = {}
        for name, greedy in (("greedy", True), ("sampled", False)):
            walks = self.play(grounds, greedy=greedy, generator=generator)
            rates[name] = round(100 * sum(walk.solved for walk in walks) / len(walks), 1)
        return rates

    def reinforce(self, train: Sequence[Ground], settings: argparse.Namespace, draw: int) -> None:
        """GRPO, clipped, by AdamW whose learning rate falls along a cosine to nothing."""
        updates = settings.prompts // settings.mini_batch
        optimizer = torch.optim.AdamW(self._model.parameters(), lr=settings.learning_rate, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda done: 0.5 * (1 + math.cos(math.pi * done / (settings.steps * updates)))
        )
        order, generator = random.Random(draw), torch.Generator().manual_seed(draw)
        waiting: list[Ground] = []
        for _ in range(settings.steps):
            while len(waiting) < settings.prompts:
                waiting += order.sample(list(train), len(train))
            picked, waiting = waiting[: settings.prompts], waiting[settings.prompts :]
            walks = self.play(
                [ground for ground in picked for _ in range(settings.group)], greedy=False, generator=generator
            )
            rewards = torch.tensor([float(walk.solved) for walk in walks]).view(-1, settings.group)
            centred = rewards - rewards.mean(1, keepdim=True)
            advantages = (centred / (rewards.std(1, keepdim=True) + 1e-6)).flatten().tolist()
            size = settings.mini_batch * settings.group
            for start in range(0, len(walks), size):
                part = slice(start, start + size)
                loss = self._loss(walks[part], advantages[part], settings.clip)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
                optimizer.step()
                schedule.step()

    def _loss(self, walks: Sequence[Walk], advantages: Sequence[float], clip: tuple[float, float]) -> torch.Tensor:
        decisions = [(row, *act, advantages[row]) for row, walk in enumerate(walks) for act in walk.acts]
        rows, positions, tools, before, weights = zip(*decisions, strict=True)
        chosen = torch.tensor(tools, device=self._device)[:, None]
        logprobs = self.logits(walks, list(rows), list(positions)).log_softmax(-1).gather(-1, chosen)[:, 0]
        ratio = (logprobs - torch.tensor(before, device=self._device)).exp()
        advantage = torch.tensor(weights, device=self._device)
        return -torch.min(ratio * advantage, ratio.clamp(*clip) * advantage).mean()


def surveyed(task_set: TaskSet) -> list[Ground]:
    if not isinstance(task_set.source, SynthSource):
        raise SystemExit(f"{task_set.name}: only generated repositories (liverl.tasks.synth) can be simulated")
    return [ground for ground in survey_generated(task_set.source) if ground.survey["stops"]]


def complete(settings: argparse.Namespace, verl: dict[str, Any]) -> None:
    """What was not asked for is as the run's own ``verl.yaml`` has it."""
    actor = verl["actor_rollout_ref"]["actor"]
    settings.steps = settings.steps or verl["trainer"]["total_training_steps"]
    settings.learning_rate = settings.learning_rate or actor["optim"]["lr"]
    settings.prompts = settings.prompts or verl["data"]["train_batch_size"]
    settings.mini_batch = settings.mini_batch or actor["ppo_mini_batch_size"]
    settings.group = verl["actor_rollout_ref"]["rollout"]["n"]
    settings.clip = (1 - actor["clip_ratio_low"], 1 + actor["clip_ratio_high"])
    if settings.prompts % settings.mini_batch:
        raise SystemExit(f"--prompts {settings.prompts}: not a multiple of --mini-batch {settings.mini_batch}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, help="this and the next three: default as in the run")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--prompts", type=int, help="per step")
    parser.add_argument("--mini-batch", type=int, help="prompts per optimizer step")
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    settings = parser.parse_args()
    if not (settings.run / "policy" / "model.safetensors").is_file():
        raise SystemExit(f"{settings.run}: no run with a warm-started policy; a run of the quickstart makes one")
    config = load_runtime_config(settings.run / "bundle" / "runtime.json")
    complete(settings, yaml.safe_load((settings.run / "bundle" / "verl.yaml").read_text(encoding="utf-8")))
    if not isinstance(config.scaffold, ShellScaffold):
        raise SystemExit("only the shell scaffold can be simulated")
    train, held_out = surveyed(config.train[0]), surveyed(config.validation[0])
    tokenizer = Tokenizer.from_file(str(settings.run / "policy" / "tokenizer.json"))
    warm = Qwen2ForCausalLM.from_pretrained(settings.run / "policy", attn_implementation="sdpa")
    rollout = config.rollout
    world = World(tokenizer, config.scaffold, rollout.prompt_length + rollout.response_length)
    for draw in range(settings.draws):
        simulation = Simulation(copy.deepcopy(warm), world, settings.device)
        generator = torch.Generator().manual_seed(1)
        row: dict[str, Any] = {"draw": draw, "before": simulation.score(held_out, generator)}
        simulation.reinforce(train, settings, draw)
        row["after"] = simulation.score(held_out, generator)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
