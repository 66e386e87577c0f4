"""A runtime config like the quickstart's."""

from __future__ import annotations

import pytest

from runtime.config import (
    Architecture,
    Bubblewrap,
    NewPolicy,
    RuntimeConfig,
    ShellScaffold,
    SynthSource,
    TaskSet,
    TorchRollout,
    WarmStart,
)


@pytest.fixture
def quickstart_config() -> RuntimeConfig:
    held_out = SynthSource(count=300, seed=1, split="held_out")
    return RuntimeConfig(
        experiment="quickstart",
        seed=0,
        target="local",
        policy=NewPolicy(
            architecture=Architecture(
                vocabulary_size=1024,
                hidden_size=96,
                intermediate_size=256,
                num_layers=3,
                num_heads=4,
                num_key_value_heads=2,
                max_position=1024,
            ),
            warm_start=WarmStart(
                demonstrations=SynthSource(count=600, seed=2, split="demonstrations"),
                steps=300,
                batch_size=32,
                learning_rate=3e-3,
                informed_fraction=0.15,
                observation_loss=0.3,
            ),
        ),
        train=(TaskSet(name="train", source=SynthSource(count=512, seed=0, split="train")),),
        validation=(
            TaskSet(name="held-out", source=held_out, temperature=0.0),
            TaskSet(name="held-out-sampled", source=held_out, temperature=1.0),
        ),
        baselines=True,
        scaffold=ShellScaffold(tools="repair", max_turns=8, max_edits=3),
        environment=Bubblewrap(),
        rollout=TorchRollout(
            replicas=2,
            slots=32,
            prompt_length=512,
            response_length=512,
            max_tokens_per_turn=24,
            temperature=1.0,
            tool_parser="compact",
            concurrency=32,
        ),
    )
