"""What the warm start trains on is, id for id, what the proxy would have recorded."""

import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from runtime.laptop.policy.demonstrations import Ground, Part, walk
from runtime.laptop.policy.encoding import Encoder
from runtime.laptop.policy.memory import MemoryWorkspace
from runtime.laptop.policy.tokenizer import train_tokenizer
from runtime.laptop.synth.repository import build
from runtime.laptop.tools.repairs import REPAIRS
from runtime.laptop.tools.survey import survey


@pytest.fixture(scope="module")
def walks() -> list[list[Part]]:
    grounds = [
        Ground("Repair it.", survey(MemoryWorkspace.of(build("demonstrations", seed=2, number=number))))
        for number in range(20)
    ]
    rng = random.Random(0)
    return [walk(rng.choice(grounds), rng, informed=0.5, max_edits=3, max_turns=20) for _ in range(60)]


@pytest.fixture(scope="module")
def tokenizer(walks: list[list[Part]]) -> Tokenizer:
    texts = [text for parts in walks for _, text in parts]
    return train_tokenizer(texts, ["run", "next", "submit", *REPAIRS], vocabulary_size=512)


def test_a_decision_is_three_tokens(tokenizer: Tokenizer) -> None:
    for word in ("run", "next", "submit", *REPAIRS):
        assert len(tokenizer.encode(f"<call>{word}").ids) == 2  # and the end of the turn
        assert tokenizer.decode(tokenizer.encode(f"<call>{word}").ids, skip_special_tokens=False) == f"<call>{word}"


def test_too_small_a_vocabulary_is_said(walks: list[list[Part]]) -> None:
    with pytest.raises(ValueError, match="not one token"):
        train_tokenizer(["a"], list(REPAIRS), vocabulary_size=270)


def test_kinds_mark_actions_and_outcomes(tokenizer: Tokenizer, walks: list[list[Part]]) -> None:
    for parts in walks:
        row = Encoder(tokenizer).row(parts)
        assert len(row.ids) == len(row.kinds)
        actions = [token for token, kind in zip(row.ids, row.kinds, strict=True) if kind == 1]
        assert len(actions) == 3 * sum(role == "assistant" for role, _ in parts)
        tried = sum(role == "assistant" and text.removeprefix("<call>") in REPAIRS for role, text in parts)
        assert row.kinds.count(2) == tried


@pytest.mark.torch
def test_the_proxy_records_the_same_ids(tmp_path: Path, tokenizer: Tokenizer, walks: list[list[Part]]) -> None:
    from transformers import PreTrainedTokenizerFast

    from runtime.laptop.compact import CHAT_TEMPLATE
    from runtime.laptop.policy.tokenizer import END, PAD, ROLES
    from runtime.proxy.codec import load_codec
    from runtime.proxy.messages import Message, ToolCall

    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=list(ROLES.values()),
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(tmp_path)
    codec = load_codec(tmp_path, "compact")
    encoder = Encoder(tokenizer)
    for parts in walks:
        ids = list(codec.render_first([Message("user", parts[0][1])], []).encode())
        for role, text in parts[1:]:
            if role == "assistant":
                ids += [*encoder.text(text), tokenizer.token_to_id(END)]
            else:
                # The suffix begins with the closing token, which the sampled ids already hold.
                ids += codec.render_suffix([Message("tool", text)], calls=[ToolCall("c", "tool", "{}")]).encode()[1:]
        recorded = encoder.row(parts).ids
        assert ids[: len(recorded)] == recorded
