"""Claude Code under the real trainer: one step of ``liverl run`` with a random policy, whose replies mean nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from runtime.config import ClaudeCodeScaffold
from runtime.launch.rundir import RunDirectory
from runtime.telemetry.metrics import read_rows
from tests.runtime.proxy.tiny_model import write_policy
from tests.runtime.scaffolds.real_agents import require

ROOT = Path(__file__).parents[2]
GROUP, TOKENS = 2, 16
SPEC = """
local liverl = import 'liverl.libsonnet';
(import 'quickstart.jsonnet') + {
  name: 'claude-code-tiny',
  policy: liverl.policy.pretrained('%(policy)s'),
  scaffold: liverl.scaffold.claude_code { max_turns: 3, tools: ['Bash'] },
  algorithm+: { group_size: %(group)d },
  schedule+: { steps: 1, train_batch_size: 1, mini_batch_size: 1, validate_every: 1, save_every: 1 },
  trainer+: { micro_batch_size: 1 },
  rollout+: {
    tool_parser: 'hermes', prompt_length: 24576, response_length: 2048, max_tokens_per_turn: %(tokens)d, concurrency: 2,
  },
  tasks+: {
    baselines: false,
    local one = liverl.tasks.synth { count: 1, seed: 1, split: 'held_out' },
    train: [{ name: 'train', source: liverl.tasks.synth { count: 2, seed: 0, split: 'train' } }],
    validation: [{ name: 'held-out', source: one, temperature: 0 }],
  },
}
"""

pytestmark = [
    pytest.mark.consumers,
    pytest.mark.sandbox,
    pytest.mark.torch,
    pytest.mark.verl,
    pytest.mark.timeout(900),
]


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """A random Qwen2 of some 60,000 parameters that can read Claude Code's first prompt."""
    sizes = {"vocab_size": 1536, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    return write_policy(tmp_path / "policy", family="chatml", length=32768, **sizes)


def records(directory: RunDirectory) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(directory.path.glob("trials/*/*/trial.json"))]


def test_a_step_is_trained_and_counted_truthfully(tmp_path: Path, policy: Path) -> None:
    require(ClaudeCodeScaffold(version="2.1.197", max_turns=3))
    spec = tmp_path / "claude.jsonnet"
    (tmp_path / "quickstart.jsonnet").write_text((ROOT / "specs" / "quickstart.jsonnet").read_text())
    spec.write_text(SPEC % {"policy": policy, "group": GROUP, "tokens": TOKENS})
    command = [sys.executable, "-m", "liverl", "run", str(spec)]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = (tmp_path / "runs").glob("*/*/run.json")
    directory = RunDirectory(record.parent)
    assert directory.read().state == "succeeded"

    rows = {row.step: row.data for row in read_rows(directory.metrics)}
    assert sorted(rows) == [0, 1]
    assert rows[1]["agent_loop/trials"] == GROUP and rows[1]["agent_loop/ungraded"] == 0
    assert rows[1]["weights/version"] == 1 and rows[1]["weights/mismatches"] == 0
    assert rows[1]["training/rollout_probs_diff_max"] <= 1e-4
    trials = records(directory)
    trained = [trial for trial in trials if not trial["validation"]]
    assert len(trained) == GROUP and len(trials) == GROUP + 2
    assert rows[1]["proxy_num_calls"] == sum(trial["model_calls"] for trial in trained)
    assert rows[1]["proxy_total_completion_tokens"] == sum(trial["completion_tokens"] for trial in trained) > 0
    # Random tokens hardly ever end: replies are cut, which the agent gives up on, or end in words without a tool call.
    endings = Counter(trial["termination"] for trial in trained)
    assert set(endings) <= {"overlong", "agent_completed"}
    assert all(rows[1][f"termination/{name}"] == count for name, count in endings.items())
    for trial in trials:
        assert (trial["reward"], trial["trainable"], trial["isolation"]) == (0.0, True, "bubblewrap")
        assert 0 < trial["completion_tokens"] <= TOKENS * trial["model_calls"]
