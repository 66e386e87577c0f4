"""Small real model folders for the proxy's tests: byte-level BPEs trained here, with two families of chat template."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from runtime.laptop.compact import CHAT_TEMPLATE

CHATML_TEMPLATE = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
    {%- else %}
        {{- 'You are a helpful assistant.' }}
    {%- endif %}
    {{- "\\n\\n# Tools\\n\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\\n' + message.content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\\n<tool_call>\\n{"name": "' }}
            {{- tool_call.name }}
            {{- '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- message.content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""  # noqa: E501 - the template of Qwen 2.5, as published

CORPUS = [path.read_text() for path in sorted(Path(json.__file__).parent.glob("*.py"))] + [
    'Phantom tokens: {"name": "run", "arguments": {"command": "pytest -q"}} <tool_call> read edit run submit',
]

CHATML_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML_MARKUP = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
COMPACT_SPECIAL = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")


MIXTURE = {
    "hidden_size": 64,
    "head_dim": 8,
    "num_hidden_layers": 4,
    "num_experts": 16,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "initializer_range": 0.2,
}
"""Sizes of a ``Qwen3Moe`` whose routers a small update makes choose other experts, and whose experts differ."""


def write_model(
    folder: Path, *, family: str, template: str | None = None, special: tuple[str, ...] | None = None
) -> Path:
    """A model folder without weights: ``chatml`` (Qwen 2.5's template) or ``compact`` (the small policy's)."""
    chatml = family == "chatml"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = special or (CHATML_SPECIAL if chatml else COMPACT_SPECIAL)
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if chatml:
        tokenizer.add_tokens([AddedToken(text, normalized=False) for text in CHATML_MARKUP])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"eos_token": "<|im_end|>" if chatml else "<|end|>", "pad_token": special[0]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    source = template if template is not None else CHATML_TEMPLATE if chatml else CHAT_TEMPLATE
    (folder / "chat_template.jinja").write_text(source)
    return folder


def write_policy(folder: Path, *, family: str, kind: str = "Qwen2", length: int = 1024, **sizes: float) -> Path:
    """The same with random weights, always the same ones: a transformer of a few ten thousand parameters. ``kind``: its
    name in transformers."""
    import torch
    import transformers

    write_model(folder, family=family)
    torch.manual_seed(0)
    numbers = {
        "vocab_size": 1500,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": length,
        **sizes,
    }
    special = CHATML_SPECIAL if family == "chatml" else COMPACT_SPECIAL
    config = getattr(transformers, f"{kind}Config")(**numbers, tie_word_embeddings=True)
    config.pad_token_id, config.eos_token_id = 0, special.index("<|im_end|>" if family == "chatml" else "<|end|>")
    getattr(transformers, f"{kind}ForCausalLM")(config).save_pretrained(folder)
    return folder
