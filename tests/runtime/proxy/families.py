"""Model families as the proxy meets them: control tokens, a chat template in each family's wire format, and what its
models sample.

The templates here are written for the tests and hold what the proxy depends on: turn markers, tool calls, tool results.
``test_published_templates`` runs the same conversations over the models' own templates.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.runtime.proxy.tiny_model import CORPUS

QWEN3_CODER = """\
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content }}
    {%- if tools %}{{- '\\n\\n# Tools\\n' + (tools | tojson) }}{% endif %}
    {{- '<|im_end|>\\n' }}
{%- elif tools %}
    {{- '<|im_start|>system\\n# Tools\\n' + (tools | tojson) + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' + message.content }}
        {%- for call in message.tool_calls or [] %}
            {{- '\\n<tool_call>\\n<function=' + call.function.name + '>\\n' }}
            {%- for key, value in call.function.arguments | items %}
                {{- '<parameter=' + key + '>\\n' }}
                {{- (value if value is string else value | tojson) + '\\n</parameter>\\n' }}
            {%- endfor %}
            {{- '</function>\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {%- if loop.previtem.role != 'tool' %}{{- '<|im_start|>user\\n' }}{% endif %}
        {{- '<tool_response>\\n' + message.content + '\\n</tool_response>\\n' }}
        {%- if loop.last or loop.nextitem.role != 'tool' %}{{- '<|im_end|>\\n' }}{% endif %}
    {%- elif not loop.first or message.role == 'user' %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}
"""

GLM = """\
[gMASK]<sop>
{%- if tools %}{{- '<|system|>\\n# Tools\\n' + (tools | tojson) }}{% endif %}
{%- set ns = namespace(last_user=-1) %}
{%- for message in messages if message.role == 'user' %}{% set ns.last_user = messages.index(message) %}{% endfor %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|assistant|>\\n<think>' }}
        {%- if loop.index0 > ns.last_user %}{{- message.reasoning_content or '' }}{% endif %}
        {{- '</think>' + ('\\n' + message.content.strip() if message.content.strip() else '') }}
        {%- for call in message.tool_calls or [] %}
            {{- '\\n<tool_call>' + call.function.name + '\\n' }}
            {%- for key, value in call.function.arguments.items() %}
                {{- '<arg_key>' + key + '</arg_key>\\n' }}
                {{- '<arg_value>' + (value if value is string else value | tojson) + '</arg_value>\\n' }}
            {%- endfor %}
            {{- '</tool_call>' }}
        {%- endfor %}
    {%- elif message.role == 'tool' %}
        {%- if loop.previtem.role != 'tool' %}{{- '<|observation|>' }}{% endif %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
    {%- else %}
        {{- '<|' + message.role + '|>\\n' + message.content }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>' }}{% endif %}
"""

LLAMA = """\
{{- bos_token + '<|start_header_id|>system<|end_header_id|>\\n\\n' }}
{%- if messages[0].role == 'system' %}{{- messages[0].content | trim }}{% set messages = messages[1:] %}{% endif %}
{{- '<|eot_id|>' }}
{%- for message in messages %}
    {%- if message.tool_calls %}
        {%- if message.tool_calls | length != 1 %}{{- raise_exception('single calls only') }}{% endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n{"name": "' + call.name + '", "parameters": ' }}
        {{- (call.arguments | tojson) + '}<|eot_id|>' }}
    {%- elif message.role == 'tool' %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' + (message.content | tojson) + '<|eot_id|>' }}
    {%- else %}
        {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' }}
        {%- if tools and loop.first %}{{- (tools | tojson(indent=4)) + '\\n\\n' }}{% endif %}
        {{- (message.content | trim) + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}
"""

HARMONY = """\
{{- '<|start|>system<|message|>Reasoning: medium<|end|>' }}
{%- set ns = namespace(name='') %}
{%- if messages[0].role == 'system' or tools %}
    {{- '<|start|>developer<|message|>' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content }}{% set messages = messages[1:] %}
    {%- endif %}
    {{- (tools | tojson if tools else '') + '<|end|>' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.tool_calls %}
        {%- set final = messages[loop.index:] | selectattr('role', 'equalto', 'assistant') %}
        {%- set analysis = message.thinking or message.content %}
        {%- if analysis and not final | rejectattr('tool_calls', 'defined') | list %}
            {{- '<|start|>assistant<|channel|>analysis<|message|>' + analysis + '<|end|>' }}
        {%- endif %}
        {%- set ns.name = message.tool_calls[0].function.name %}
        {{- '<|start|>assistant to=functions.' + ns.name + '<|channel|>commentary json<|message|>' }}
        {{- (message.tool_calls[0].function.arguments | tojson) + '<|call|>' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|start|>assistant<|channel|>final<|message|>' + message.content }}
        {{- '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}
    {%- elif message.role == 'tool' %}
        {{- '<|start|>functions.' + ns.name + ' to=assistant<|channel|>commentary<|message|>' }}
        {{- (message.content | tojson) + '<|end|>' }}
    {%- elif message.role == 'user' %}
        {{- '<|start|>user<|message|>' + message.content + '<|end|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{% endif %}
"""


@dataclass(frozen=True)
class Family:
    """``call`` is what a model samples to reason "Look." and to call ``read`` with ``{"path": "a.py", "n": 1}``,
    without the stop token ``call_stop``; ``answer`` says "Done." and ends in ``answer_stop``. ``after_call`` and
    ``after_answer`` are the texts that a tool result and a user's message add to the stored tokens.
    """

    parser: str
    template: str
    control: tuple[str, ...]
    call: str
    call_stop: str
    after_call: str
    answer: str
    answer_stop: str
    after_answer: str
    published: str
    """The template of a model of this family in the PyPI package ``trl``."""
    reasons: bool = True
    quotes_results: bool = False
    """The template writes a tool result as a JSON string."""


_CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<think>", "</think>")
_CHATML += ("<tool_response>", "</tool_response>")
XML_CALL = (
    "<tool_call>\n<function=read>\n<parameter=path>\na.py\n</parameter>\n<parameter=n>\n1\n</parameter>\n"
    "</function>\n</tool_call>"
)
_HEADER = "<|start_header_id|>{}<|end_header_id|>\n\n"

FAMILIES = {
    "qwen3-coder": Family(
        parser="qwen3_coder",
        template=QWEN3_CODER,
        control=_CHATML,
        call=f"I look.\n{XML_CALL}",
        call_stop="<|im_end|>",
        after_call="\n<|im_start|>user\n<tool_response>\n{}\n</tool_response>\n<|im_end|>\n<|im_start|>assistant\n",
        answer="Done.",
        answer_stop="<|im_end|>",
        after_answer="\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
        published="",
        reasons=False,
    ),
    "glm": Family(
        parser="glm45",
        template=GLM,
        control=(
            *("<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
            *("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
            *("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
        ),
        call=(
            "\n<think>Look.</think>\n<tool_call>read\n<arg_key>path</arg_key>\n<arg_value>a.py</arg_value>\n"
            "<arg_key>n</arg_key>\n<arg_value>1</arg_value>\n</tool_call>"
        ),
        call_stop="<|observation|>",
        after_call="\n<tool_response>\n{}\n</tool_response><|assistant|>",
        answer="\n<think></think>\nDone.",
        answer_stop="<|user|>",
        after_answer="\n{}<|assistant|>",
        published="glm4moe",
    ),
    "llama3": Family(
        parser="llama3_json",
        template=LLAMA,
        control=(
            *("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
            *("<|eom_id|>", "<|python_tag|>"),
        ),
        call='{"name": "read", "parameters": {"path": "a.py", "n": 1}}',
        call_stop="<|eom_id|>",
        after_call=f"{_HEADER.format('ipython')}{{}}<|eot_id|>{_HEADER.format('assistant')}",
        answer="Done.",
        answer_stop="<|eot_id|>",
        after_answer=f"{_HEADER.format('user')}{{}}<|eot_id|>{_HEADER.format('assistant')}",
        published="llama3_1",
        reasons=False,
        quotes_results=True,
    ),
    "gpt-oss": Family(
        parser="openai",
        template=HARMONY,
        control=(
            *("<|startoftext|>", "<|endoftext|>", "<|return|>", "<|constrain|>", "<|channel|>", "<|start|>"),
            *("<|end|>", "<|message|>", "<|call|>"),
        ),
        call=(
            "<|channel|>analysis<|message|>Look.<|end|><|start|>assistant to=functions.read<|channel|>commentary "
            '<|constrain|>json<|message|>{"path": "a.py", "n": 1}'
        ),
        call_stop="<|call|>",
        after_call=("<|start|>functions.read to=assistant<|channel|>commentary<|message|>{}<|end|><|start|>assistant"),
        answer="<|channel|>analysis<|message|>Well.<|end|><|start|>assistant<|channel|>final<|message|>Done.",
        answer_stop="<|return|>",
        after_answer="<|start|>user<|message|>{}<|end|><|start|>assistant",
        published="gptoss",
        quotes_results=True,
    ),
}


def write_family(folder: Path, family: Family, *, template: str | None = None) -> Path:
    """A model folder without weights: a byte-level BPE trained here with the family's control tokens, and ``template``
    (default: the family's own).

    Every second control token is an added token that is not flagged as special, as in the models' own files.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1200, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    markup = [text for text in family.control if text[1].isalpha() or text[1] == "/"]
    tokenizer.add_special_tokens([AddedToken(text) for text in family.control if text not in markup])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in markup])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"bos_token": family.control[0], "eos_token": family.answer_stop}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(family.template if template is None else template)
    return folder
