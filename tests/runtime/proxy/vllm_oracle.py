"""Runs inside the virtual environment of vLLM: replies read by vLLM's own parsers.

Standard input: ``{"jobs": {PARSER: {"tokenizer": PATH, "texts": [...]}}, "tools": [...]}``; standard output: per
parser and text ``[content, [[name, arguments], ...]]``. Of harmony, whose library needs a vocabulary from the network,
only who is called: the ``texts`` of ``openai`` are recipients.
"""

import json
import sys

from transformers import PreTrainedTokenizerFast
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.parser.harmony_utils import extract_function_from_recipient, is_function_recipient
from vllm.tool_parsers import ToolParserManager


def recipients(texts):
    return [
        ["", [[extract_function_from_recipient(text), "{}"]] if is_function_recipient(text) else []] for text in texts
    ]


def main():
    work = json.load(sys.stdin)
    request = ChatCompletionRequest(
        model="m", messages=[{"role": "user", "content": "u"}], tools=work["tools"], tool_choice="auto"
    )
    found = {}
    for name, job in work["jobs"].items():
        if name == "openai":
            found[name] = recipients(job["texts"])
            continue
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=job["tokenizer"])
        found[name] = []
        for text in job["texts"]:
            # A parser keeps the state of its reply.
            parser = ToolParserManager.get_tool_parser(name)(tokenizer, request.tools)
            read = parser.extract_tool_calls(text, request)
            calls = [[call.function.name, call.function.arguments] for call in read.tool_calls]
            found[name].append([read.content or "", calls])
    json.dump(found, sys.stdout)


main()
