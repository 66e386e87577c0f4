"""The supervised stage of a pretrained policy: what is refused at its field, and what verl's SFT trainer makes of the
rest."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import yaml

from compiler import check_spec, compile_in_memory
from compiler.errors import SpecError
from runtime.config import RuntimeConfig

FILE = "{ type: 'parquet', path: 'd.parquet' }"
BASE = """\
(import 'quickstart.jsonnet') + {
  name: 'stage',
  policy: {
    type: 'pretrained', path: 'model',
    warm_start: {
      demonstrations: [%(file)s],
      %(stage)s
    },
  },
  %(rest)s
}
"""


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function: fields of the stage, fields of the experiment -> a spec file, where its files are."""
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    Path("model/config.json").write_text("{}")
    Path("d.parquet").touch()
    Path("run").mkdir()
    Path("run/run.json").touch()

    def write(stage: str = "", rest: str = "", *, file: str = FILE) -> Path:
        path = tmp_path / "stage.jsonnet"
        path.write_text(BASE % {"file": file, "stage": stage, "rest": rest})
        return path

    return write


FSDP2 = (
    "trainer: (import 'liverl.libsonnet').trainer.fsdp2 + { ranks_per_node: 1, optimizer: { learning_rate: 1e-5 } },"
)
ON_A_GPU = "trainer: (import 'one-gpu.jsonnet').trainer, rollout: (import 'one-gpu.jsonnet').rollout,"
MEGATRON = FSDP2.replace("fsdp2", "megatron")
FATAL = {
    "batch below a pass": ("tokens_per_batch: 1000,", "", 7, "tokens_per_batch: 1000, but one pass takes 16384"),
    "batch and ranks": (
        "tokens_per_batch: 16384 * 3,", "trainer+: { ranks_per_node: 2 },", 7, "3 passes of 16384, not divisible by 2",
    ),
    "longer than a pass": ("max_length: 20000,", "", 7, "max_length: 20000, but a pass takes 16384"),
    "compiled on a CPU": ("compile: true,", "", 7, "compile: true, but on a CPU"),
    "two lengths": ("steps: 5, epochs: 2,", "", 7, "epochs: 2, but steps says how long: 5"),
    "another trainer": ("", MEGATRON, 5, 'warm_start: the supervised stage is trained with FSDP, not with "megatron"'),
    "several machines": ("", "trainer+: { nodes: 2 },", 5, "on one machine, but trainer.nodes is 2"),
    "unknown field": ("epoch: 2,", "", 7, "epoch: unknown field"),
}  # fmt: skip


@pytest.mark.parametrize("name", FATAL)
def test_what_is_refused_and_where(spec: Any, name: str) -> None:
    stage, rest, line, words = FATAL[name]
    with pytest.raises(SpecError) as caught:
        compile_in_memory(spec(stage, rest))
    found = [str(problem) for problem in caught.value.problems]
    assert any(words in one and f"stage.jsonnet:{line}:" in one for one in found), found


@pytest.mark.parametrize("target", ["k8s", "ray", "skypilot"])
def test_targets_whose_own_process_has_no_gpu(spec: Any, target: str) -> None:
    with pytest.raises(SpecError, match="the supervised stage runs on the target local or docker alone"):
        compile_in_memory(spec(), target=target)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("{ type: 'parquet', path: 'absent.parquet' }", "absent.parquet: no such file"),
        ("{ type: 'trials', run: 'absent' }", "absent: no run there"),
        ("{ type: 'parquet', path: 'd.csv' }", "not a .parquet file"),
        ("{ type: 'guess' }", '"guess" is unknown'),
    ],
)
def test_sources_that_are_not_there(spec: Any, file: str, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        compile_in_memory(spec(file=file))
    assert any(words in str(one) and "stage.jsonnet:6:" in str(one) for one in caught.value.problems)


PIN = "{ name: '%s', version: '1', sha256: std.repeat('0', 64) }"
BUGS = "{ type: 'generate', packages: [%s], per_package: 1, seed: 0, split: '%s' }"
SHELL = "scaffold: { type: 'shell', tools: 'free', max_turns: 3, max_edits: 3, %s },"


def test_demonstrations_that_are_made_show_nothing_that_is_held_out(spec: Any) -> None:
    held = BUGS % (PIN % "More_Itertools", "held_out")
    shown = BUGS % (f"{PIN % 'toolz'}, {PIN % 'more.itertools'}", "train")
    scaffold = SHELL % "first_look: { functions: 3 }, test_after_edit: false"
    rest = f"{scaffold} tasks+: {{ validation: [{{ name: 'unseen', source: {held} }}] }},"
    anybodys = "{ type: 'harbor', dataset: 'd', version: '1', registry: 'http://example.com/r.json' }"
    made = ", ".join(f"{{ type: 'made', {tasks} }}" for tasks in (f"tasks: {shown}", "", f"tasks: {anybodys}"))
    with pytest.raises(SpecError) as caught:
        compile_in_memory(spec(rest=rest, file=made))
    found = [str(problem).partition(": ")[2] for problem in caught.value.problems if problem.severity == "fatal"]
    place = "policy.warm_start.demonstrations"
    assert sorted(one for one in found if not one.startswith("scaffold.")) == [
        f'{place}[0].tasks.packages[1].name: "more.itertools" is held out for validation; leave it out',
        f'{place}[0].tasks.split: "train" tasks as demonstrations would leak into reinforcement; '
        "allowed: demonstrations",
        f"{place}[1]: neither tasks nor pairs; name one of them",
        f'{place}[2].tasks.registry: "http://example.com/r.json": what it names is run, and nothing shows that it is'
        " what its owner wrote; allowed: an address that begins with https://, or a file",
    ]
    assert any(one.startswith("scaffold.test_after_edit: off") for one in found)


def test_many_epochs_are_warned_of(spec: Any) -> None:
    found = [str(problem) for problem in check_spec(spec("epochs: 4,"))]
    assert any("epochs: 4" in one and "warn" in one for one in found), found


def test_the_bundle_says_it_all(spec: Any) -> None:
    both = f"{FILE}, {{ type: 'trials', run: 'run', per_task: 2 }}"
    bundle = compile_in_memory(spec("tokens_per_batch: 65536, learning_rate: 3e-4,", file=both))
    config = RuntimeConfig.model_validate_json(bundle.files["runtime.json"])
    assert config.policy.warm_start is not None  # type: ignore[union-attr]
    tree = yaml.safe_load(bundle.files["sft.yaml"])
    assert (tree["data"]["train_batch_size"], tree["optim"]["lr"], tree["trainer"]["device"]) == (4, 3e-4, "cpu")
    assert "solved trials of run" in bundle.files["SUMMARY.md"]
    without = compile_in_memory("quickstart")
    assert "sft.yaml" not in without.files


def test_a_run_of_the_stage_alone(spec: Any) -> None:
    files = compile_in_memory(spec("", "schedule+: { steps: 0 },")).files
    trainer = yaml.safe_load(files["verl.yaml"])["trainer"]
    assert trainer["val_only"] is True and trainer["val_before_train"] is True
    assert "val_only" not in yaml.safe_load(compile_in_memory(spec()).files["verl.yaml"])["trainer"]


@pytest.mark.verl
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rest", ["", ON_A_GPU])
def test_verl_reads_it(spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rest: str) -> None:
    """Composed as its entry point does it, and made into verl's own classes: a name that verl does not have is
    refused there."""
    import hydra
    from verl.utils.config import omega_conf_to_dataclass

    from compiler.bundle import write_files

    monkeypatch.setenv("LIVERL_RUN_DIR", str(tmp_path))
    write_files(tmp_path / "bundle", compile_in_memory(spec("", rest)).files)
    found = importlib.util.find_spec("verl")
    assert found is not None and found.origin is not None
    base = (Path(found.origin).parent / "trainer" / "config").as_uri()
    with hydra.initialize_config_dir(str(tmp_path / "bundle"), version_base=None):
        tree = hydra.compose("sft", overrides=["trainer.total_training_steps=3", f"hydra.searchpath=[{base}]"])
    engine = omega_conf_to_dataclass(tree.engine)
    assert engine.mixed_precision["param_dtype"] == ("bf16" if rest else "fp32")
    assert engine.pad_to_length_bucket == tree.data.pack_tokens == 16384
    assert omega_conf_to_dataclass(tree.optim).betas == [0.9, 0.95]
    assert omega_conf_to_dataclass(tree.checkpoint).load_contents == ["model", "optimizer", "extra"]
