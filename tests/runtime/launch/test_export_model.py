"""An exported step is what was trained: transformers loads it, and adapters merged or apart give the same logits."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from runtime.config import PretrainedPolicy, load_runtime_config
from runtime.errors import UserError
from runtime.launch.export_model import export_model, model_card
from runtime.launch.rundir import RunDirectory
from runtime.launch.score import find_model
from runtime.launch.whole import whole
from runtime.models import adapters, store
from runtime.trainer.stable import mark_stable, step_folder
from tests.run_directories import MadeRun, make_run
from tests.runtime.proxy.tiny_model import write_model

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    """Step 1: a whole model; step 2: one with adapters, saved as verl saves it; step 3: half written."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("model")
    made = make_run(folder / "runs", steps=0, sets=[])
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=1000, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=False,
    )  # fmt: skip
    for step in (1, 2, 3):
        model = Qwen2ForCausalLM(config)
        target = step_folder(made.directory.checkpoints, step) / "actor" / "huggingface"
        write_model(target, family="chatml")
        state = model.state_dict()
        if step == 2:
            adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "up_proj"]))
            for name, tensor in adapted.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.normal_(tensor, std=0.2)
            state = adapted.state_dict()
            torch.save(adapted, folder / "adapted.pt")
            meta = {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM"}
            (target.parent / "lora_train_meta.json").write_text(json.dumps(meta))
            model = Qwen2ForCausalLM(config)
        model.save_pretrained(target, state_dict=state)
        if step < 3:
            mark_stable(target.parents[1])
    return made


def _logits(model: object) -> object:
    import torch

    with torch.no_grad():
        return model(torch.arange(1, 20)[None]).logits  # type: ignore[operator]


def test_a_whole_model(made: MadeRun, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    done = export_model(made.directory, 1, tmp_path / "m")
    assert (done.form, done.licence) == ("whole", None)
    source = step_folder(made.directory.checkpoints, 1) / "actor" / "huggingface"
    loaded, was = (AutoModelForCausalLM.from_pretrained(folder) for folder in (done.path, source))
    assert _logits(loaded).equal(_logits(was))  # type: ignore[attr-defined]
    assert AutoTokenizer.from_pretrained(done.path).apply_chat_template([{"role": "user", "content": "x"}])


def test_the_card_says_what_it_is(made: MadeRun, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    export_model(made.directory, 1, tmp_path / "m", licence="apache-2.0")
    card = ModelCard.load(tmp_path / "m" / "README.md")
    assert card.data.license == "apache-2.0" and card.data.library_name == "transformers"
    for words in (
        "# quickstart, step 1",
        "quickstart.jsonnet",
        "trained on `train`",
        "scored on `held-out`",
        "was not scored",
    ):
        assert words in card.text, words
    assert re.search("sha256 `[0-9a-f]{64}`", card.text) and made.path.name in card.text
    assert str(made.path) not in card.text


@pytest.mark.parametrize(
    ("named", "base"), [("Someone/Model", "Someone/Model"), ("{here}/mine", None), ("taken", "Someone/Else")]
)
def test_the_card_names_what_is_published(
    made: MadeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str, base: str | None
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    taken = store.models_folder() / "taken"
    taken.mkdir(parents=True)
    facts = {"name": "taken", "source": "Someone/Else@abc", "source_sha256": None, "licence": "mit", "parameters": 1}
    facts |= {"converted_by": None, "changed": [], "files": {}}
    (taken / store.RECORD).write_text(json.dumps(facts))
    config = load_runtime_config(made.directory.runtime_json)
    config = config.model_copy(update={"policy": PretrainedPolicy(path=named.format(here=tmp_path))})
    card = model_card(made.directory, config, step=1, form="whole", licence=None)
    assert (f'base_model: "{base}"' in card) == (base is not None) == ("base_model" in card)
    assert str(tmp_path) not in card and Path(named).name in (card if base is None else named)


def test_adapters_are_merged_or_apart(made: MadeRun, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM, Qwen2ForCausalLM

    trained = torch.load(made.path.parents[2] / "adapted.pt", weights_only=False).eval()
    merged = export_model(made.directory, 2, tmp_path / "merged")
    model, info = AutoModelForCausalLM.from_pretrained(merged.path, output_loading_info=True)
    assert merged.form == "merged" and not info["missing_keys"] and not info["unexpected_keys"]
    assert torch.allclose(_logits(model), _logits(trained), atol=1e-5)

    apart = export_model(made.directory, 2, tmp_path / "apart", keep_adapters=True)
    names = load_file(apart.path / "adapter_model.safetensors")
    assert len(names) == 2 * 2 * 2 and all(".lora_" in name for name in names)
    config = AutoConfig.from_pretrained(step_folder(made.directory.checkpoints, 2) / "actor" / "huggingface")
    base = Qwen2ForCausalLM(config)
    state = trained.base_model.model.state_dict()
    kept = {name.replace(".base_layer", ""): value for name, value in state.items() if "lora_" not in name}
    base.load_state_dict(kept)
    assert torch.allclose(_logits(PeftModel.from_pretrained(base, apart.path).eval()), _logits(trained), atol=1e-5)


def test_an_adapter_that_was_kept_alone_is_put_on_its_base(made: MadeRun, tmp_path: Path) -> None:
    """As a run that trains adapters keeps it: merged and apart by transformers and peft, scored by its folder."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    base = step_folder(made.directory.checkpoints, 1) / "actor" / "huggingface"
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, lora_alpha=3)).eval()
    for name, tensor in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(tensor, std=0.2)
    folder = tmp_path / "run" / "checkpoints" / "global_step_5" / "actor" / "huggingface"
    write_model(folder, family="chatml")
    shutil.copy(base / "config.json", folder)
    (folder.parent / "lora_train_meta.json").write_text(json.dumps({"r": 2, "lora_alpha": 3}))
    tensors = {name: tensor for name, tensor in adapted.state_dict().items() if "lora_" in name}
    files = adapters.weight_files(base)
    adapters.write(tensors, folder.parent / "lora_train_meta.json", folder, base=str(base), files=files)

    assert find_model(tmp_path / "run", named="x") == folder
    model, info = AutoModelForCausalLM.from_pretrained(whole(folder, tmp_path / "whole"), output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and model.dtype == torch.float32
    assert torch.allclose(_logits(model), _logits(adapted), atol=1e-5)
    apart = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval()
    assert torch.allclose(_logits(apart), _logits(adapted), atol=1e-5)

    directory = RunDirectory(tmp_path / "run")
    for name in ("run.json", "bundle"):
        (directory.path / name).symlink_to(made.path / name)
    mark_stable(folder.parents[1])
    merged = export_model(directory, 5, tmp_path / "merged")
    assert merged.form == "merged" and not adapters.alone(merged.path)
    assert torch.allclose(_logits(AutoModelForCausalLM.from_pretrained(merged.path)), _logits(adapted), atol=1e-5)
    kept = export_model(directory, 5, tmp_path / "apart", keep_adapters=True)
    assert kept.form == "adapter" and adapters.alone(kept.path) and not (kept.path / "config.json").exists()

    (folder / adapters.BASE).write_text(json.dumps({"base": str(base), "files": {**files, "other.safetensors": "0"}}))
    with pytest.raises(UserError, match="there is another model in"):
        whole(folder, tmp_path / "never")


@pytest.mark.parametrize(
    ("step", "options", "said"),
    [
        (3, {}, "there are steps: 1, 2, and 0"),
        (9, {}, "no whole model"),
        (1, {"keep_adapters": True}, "no low-rank adapters"),
        (0, {}, "is not there"),
    ],
)
def test_what_is_not_there_is_told(
    made: MadeRun, tmp_path: Path, step: int, options: dict[str, bool], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        export_model(made.directory, step, tmp_path / "m", **options)
    assert not (tmp_path / "m").exists()


def test_nothing_is_overwritten(made: MadeRun, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exists already"):
        export_model(made.directory, 1, tmp_path)


def test_alpha_may_be_a_fraction(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text(json.dumps({"r": 4, "lora_alpha": 2.5}))
    assert adapters._scale(tmp_path / "meta.json") == 0.625
