"""``liverl tasks demonstrate``: the file that is written, and what is refused before anything is made."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from liverl.cli import build_app
from runtime.errors import UserError
from tests.runtime.proxy.tiny_model import write_model

SPEC = """(import 'quickstart.jsonnet') + {
  rollout+: { tool_parser: 'hermes', prompt_length: 4096, response_length: 2048 },
  scaffold: (import 'liverl.libsonnet').scaffold.shell {
    first_look: { functions: 3, max_chars: 4000 }, test_after_edit: true,
  },
  policy: { type: 'pretrained', path: '%s', warm_start: { demonstrations: [%s] } },
}"""
MADE = "{ type: 'made', pairs: { tokens: 10000, sources: ['nowhere'] } }"
CODE = "def add(a, b):\n    if a == b:\n        return a + 1\n    return a - b\n"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demonstrate")
    model = write_model(folder / "model", family="chatml")
    shape = dict.fromkeys(("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers"), 8)
    kind = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "max_position_embeddings": 8192}
    (model / "config.json").write_text(json.dumps({**shape, **kind, "vocab_size": 2000}))
    (folder / "code" / "tiny").mkdir(parents=True)
    (folder / "code" / "tiny" / "a.py").write_text(CODE)
    (folder / "one.jsonnet").write_text(SPEC % (model, MADE))
    (folder / "two.jsonnet").write_text(SPEC % (model, f"{MADE}, {MADE}"))
    return folder


def demonstrate(here: Path, spec: str, *arguments: str) -> Path:
    out = here / "out.parquet"
    line = ["tasks", "demonstrate", str(here / spec), "-o", str(out), "-j", "1", *arguments]
    build_app()(line, standalone_mode=False)
    return out


def test_options_change_what_the_spec_asks_for(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = demonstrate(here, "one.jsonnet", "--from", str(here / "code"), "--per-kind-fraction", "1", "--json")
    said = json.loads(capsys.readouterr().out)
    assert said["pairs"] == said["rows"] == pq.read_table(out).num_rows == 2
    assert said["tokens"] <= 10_000


@pytest.mark.parametrize(
    ("spec", "arguments", "problem"),
    [
        ("one.jsonnet", ["--times", "2"], "--times: no task is to be solved"),
        ("one.jsonnet", ["--tasks", "code", "--from", "stdlib"], "--from: no pairs are asked for"),
        ("one.jsonnet", ["-o", "code.parquet"], "code.parquet: not a .parquet file"),
        ("two.jsonnet", [], "2 of type made, and this writes one file"),
    ],
)
def test_it_says_what_it_cannot_do(
    here: Path, monkeypatch: pytest.MonkeyPatch, spec: str, arguments: list[str], problem: str
) -> None:
    monkeypatch.chdir(here)
    Path("code.parquet").mkdir(exist_ok=True)
    with pytest.raises(UserError) as error:
        demonstrate(here, spec, *arguments)
    assert problem in "\n".join(error.value.problems)
