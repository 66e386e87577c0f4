"""The supervised warm start: transformers' Trainer on demonstrations that are walked anew for every batch.

A program of its own (``python -m runtime.laptop.policy.train FOLDER``), one process per core under torch's distributed
gloo backend; reads FOLDER/warm_start.json and the tokenizer, writes the trained model to FOLDER. Prints ``progress STEP
STEPS LOSS`` lines on rank 0. It does not know how the grounds were surveyed.
"""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import Qwen2Config, Qwen2ForCausalLM, Trainer, TrainerCallback, TrainingArguments

from runtime.laptop.policy.demonstrations import Ground, Part, walk
from runtime.laptop.policy.encoding import Encoder, Row
from runtime.laptop.policy.tokenizer import END, PAD

ADAM_BETAS = (0.9, 0.98)
WARMUP_STEPS = 20
WINDOW = 16
"""Parts of batches within which walks are sorted by their turns."""
PARTS = 2
"""Of a batch, each of walks of about one length, so that a step does not hang on a single one."""
FINAL_LR_FRACTION = 0.1
OUTCOME_WEIGHT = 6.0
"""Predicting what a repair will do is what teaches the model to see whether code and comment agree."""


class Batches(torch.utils.data.Dataset[list[Row]]):
    """Item i is one process's share of part ``i // processes`` of all batches: walks of about as many turns, so that
    little of it is padding, and as many as the other processes' shares have, which would wait for it.

    Walk n is drawn from (seed, n): endless variety from a fixed set of grounds, and repeatable on any number of
    processes. Walks are sorted within windows of ``WINDOW`` parts and no further, so that a part is still a random one
    of its turns; the parts of a window come in random order. Sorted by tokens they pad less and teach less: reading
    operators came several hundred steps later (``docs/measurements.md``).
    """

    def __init__(self, grounds: list[Ground], encoder: Encoder, settings: dict[str, Any]) -> None:
        self._grounds, self._encoder, self._settings = grounds, encoder, settings
        self._processes = int(settings["processes"])
        self.parts = PARTS if settings["batch_size"] % (PARTS * self._processes) == 0 else 1
        self._size = int(settings["batch_size"]) // self.parts
        self._window = -1
        self._drawn: list[list[Row]] = []

    def __len__(self) -> int:
        return int(self._settings["steps"]) * self.parts * self._processes

    def __getitem__(self, index: int) -> list[Row]:
        part, share = divmod(index, self._processes)
        window, place = divmod(part, WINDOW)
        if window != self._window:
            self._window, self._drawn = window, self._draw(window)
        return self._drawn[place][share :: self._processes]

    def _draw(self, window: int) -> list[list[Row]]:
        walks = WINDOW * self._size
        drawn = sorted((self._walk(window * walks + n) for n in range(walks)), key=len)
        rows = [self._encoder.row(walked) for walked in drawn]
        limit = self._settings["max_position"]
        cut = [Row(row.ids[:limit], row.kinds[:limit]) for row in rows]
        parts = [cut[start : start + self._size] for start in range(0, walks, self._size)]
        random.Random(f"{self._settings['seed']}/window/{window}").shuffle(parts)
        return parts

    def _walk(self, number: int) -> list[Part]:
        ground = self._grounds[(number * 7919 + number // len(self._grounds)) % len(self._grounds)]
        known = self._settings["informed_families"]
        return walk(
            ground,
            random.Random(f"{self._settings['seed']}/{number}"),
            informed=self._settings["informed_fraction"] if not known or ground.family in known else 0.0,
            max_edits=self._settings["max_edits"],
            max_turns=self._settings["max_turns"],
        )


def collate(batches: list[list[Row]]) -> dict[str, torch.Tensor]:
    """Right-padded batch: input_ids and kinds, (rows, longest); padding has kind -1."""
    rows = [row for batch in batches for row in batch]
    longest = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    kinds = torch.full((len(rows), longest), -1)
    for at, row in enumerate(rows):
        ids[at, : len(row.ids)] = torch.tensor(row.ids)
        kinds[at, : len(row.kinds)] = torch.tensor(row.kinds)
    return {"input_ids": ids, "kinds": kinds}


class WarmStartTrainer(Trainer):  # type: ignore[misc]
    """Weighted cross-entropy; the weight of observations fades to nothing over the phase."""

    observation_loss = 0.0

    def compute_loss(
        self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False, **_: Any
    ) -> torch.Tensor:
        kinds = inputs["kinds"][:, 1:]
        # Right padding under a causal mask needs no attention mask.
        logits = model(input_ids=inputs["input_ids"], use_cache=False).logits[:, :-1]
        left = 1 - self.state.global_step / max(1, self.state.max_steps)
        weights = (kinds == 1).float() + (kinds == 2).float() * OUTCOME_WEIGHT
        weights += (kinds == 0).float() * self.observation_loss * left
        losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), inputs["input_ids"][:, 1:].flatten(), reduction="none"
        )
        loss: torch.Tensor = (losses * weights.flatten()).sum() / weights.sum()
        return loss


class Report(TrainerCallback):  # type: ignore[misc]
    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if state.is_world_process_zero and logs and "loss" in logs:
            print(f"progress {state.global_step} {state.max_steps} {logs['loss']:.4f}", flush=True)


def new_model(settings: dict[str, Any], tokenizer: Tokenizer) -> Qwen2ForCausalLM:
    """A Qwen2 of random initialisation; standard deviation 1/sqrt(width), which small models learn faster from."""
    torch.manual_seed(settings["seed"])
    width = settings["hidden_size"]
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=width,
            intermediate_size=settings["intermediate_size"],
            num_hidden_layers=settings["num_layers"],
            num_attention_heads=settings["num_heads"],
            num_key_value_heads=settings["num_key_value_heads"],
            max_position_embeddings=settings["max_position"],
            tie_word_embeddings=True,
            initializer_range=width**-0.5,
            eos_token_id=tokenizer.token_to_id(END),
            pad_token_id=tokenizer.token_to_id(PAD),
            bos_token_id=None,
            attn_implementation="sdpa",
        )
    )


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    settings = json.loads((folder / "warm_start.json").read_text())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    grounds = [Ground(**item) for item in settings.pop("grounds")]
    model = new_model(settings, tokenizer)
    world = int(settings["processes"])
    if world > 1:
        # They meet in a file: a port that was free a moment ago may be another run's by now.
        meeting = f"file://{folder.absolute()}/meeting"
        torch.distributed.init_process_group(
            "gloo", init_method=meeting, rank=int(os.environ["RANK"]), world_size=world
        )
    batches = Batches(grounds, Encoder(tokenizer), settings)
    trainer = WarmStartTrainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder / "trainer"),
            use_cpu=True,
            ddp_backend="gloo" if world > 1 else None,
            ddp_find_unused_parameters=False if world > 1 else None,
            max_steps=settings["steps"],
            per_device_train_batch_size=1,  # an item is many walks already
            gradient_accumulation_steps=batches.parts,
            learning_rate=settings["learning_rate"],
            lr_scheduler_type="cosine_with_min_lr",
            lr_scheduler_kwargs={"min_lr_rate": FINAL_LR_FRACTION},
            warmup_steps=WARMUP_STEPS,
            adam_beta1=ADAM_BETAS[0],
            adam_beta2=ADAM_BETAS[1],
            weight_decay=0.01,
            max_grad_norm=1.0,
            logging_steps=max(1, settings["steps"] // 50),
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            train_sampling_strategy="sequential",  # the batches are in random order, and processes take turns
            dataloader_num_workers=0,
            dataloader_pin_memory=False,
            seed=settings["seed"],
        ),
        train_dataset=batches,
        data_collator=collate,
        callbacks=[Report()],
    )
    trainer.observation_loss = settings["observation_loss"]
    trainer.train()
    if trainer.is_world_process_zero():
        model.save_pretrained(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    # Without gloo's teardown: where one process has ended, it now and then left the other waiting for ever.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
