"""Runs inside the virtual environment of the PyPI package ``renderers``: prompts, suffixes and parsed replies as that
package makes them.

Standard input: ``{"tokenizer": PATH, "renderer": NAME, "jobs": [...]}``; standard output: one result per job.
"""

import json
import sys

from renderers.configs import (
    GLM45RendererConfig,
    Llama3RendererConfig,
    Qwen3RendererConfig,
    Qwen36RendererConfig,
)
from renderers.glm45 import GLM45Renderer
from renderers.llama_3 import Llama3Renderer
from renderers.parsing import parse_gpt_oss
from renderers.qwen3 import Qwen3Renderer
from renderers.qwen36 import Qwen36Renderer
from tokenizers import Tokenizer

RENDERERS = {
    "qwen3": (Qwen3Renderer, Qwen3RendererConfig),
    "qwen3_6": (Qwen36Renderer, Qwen36RendererConfig),
    "glm45": (GLM45Renderer, GLM45RendererConfig),
    "llama3": (Llama3Renderer, Llama3RendererConfig),
}


class Adapter:
    """What a renderer wants of a tokenizer."""

    name_or_path = "tests"
    unk_token_id = None
    eos_token_id = None

    def __init__(self, path):
        self._tokenizer = Tokenizer.from_file(path)

    def encode(self, text, *args, **kwargs):
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids, *args, **kwargs):
        return self._tokenizer.decode(list(ids), skip_special_tokens=kwargs.get("skip_special_tokens", False))

    def convert_tokens_to_ids(self, tokens):
        if isinstance(tokens, str):
            return self._tokenizer.token_to_id(tokens)
        return [self._tokenizer.token_to_id(token) for token in tokens]


class GptOss:
    """The parser alone: its renderer wants a vocabulary from the network."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer

    def parse_response(self, ids, *, tools, prompt_ids):
        token = self._tokenizer.convert_tokens_to_ids
        names = ("return", "call", "start", "end", "channel", "message", "constrain")
        opened = self._tokenizer.encode("<|start|>assistant")
        return parse_gpt_oss(self._tokenizer, opened + ids, **{f"{name}_id": token(f"<|{name}|>") for name in names})


def run(renderer, job):
    tools = job.get("tools")
    if job["do"] == "render":
        return renderer.render_ids(job["messages"], tools=tools, add_generation_prompt=True)
    if job["do"] == "bridge":
        made = renderer.bridge_to_next_turn(job["prompt"], job["completion"], job["messages"], tools=tools)
        return None if made is None else made.token_ids
    reply = renderer.parse_response(job["completion"], tools=tools, prompt_ids=job["prompt"])
    calls = [[call.name, call.arguments, call.status.name] for call in reply.tool_calls or []]
    return [reply.content, reply.reasoning_content or "", calls]


def main():
    work = json.load(sys.stdin)
    tokenizer = Adapter(work["tokenizer"])
    if work["renderer"] == "gpt_oss":
        renderer = GptOss(tokenizer)
    else:
        renderer_class, config_class = RENDERERS[work["renderer"]]
        renderer = renderer_class(tokenizer, config_class(**work["config"]))
    json.dump([run(renderer, job) for job in work["jobs"]], sys.stdout)


main()
