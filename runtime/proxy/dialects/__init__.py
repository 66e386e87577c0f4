"""Wire APIs by the path below a session that they answer. A further API adds one module and one entry here."""

from __future__ import annotations

from runtime.proxy.dialects.anthropic import AnthropicMessages
from runtime.proxy.dialects.base import Dialect
from runtime.proxy.dialects.openai import OpenAIChat
from runtime.proxy.dialects.responses import OpenAIResponses

OPENAI: Dialect = OpenAIChat()
ANTHROPIC: Dialect = AnthropicMessages()
RESPONSES: Dialect = OpenAIResponses()
DIALECTS: dict[str, Dialect] = {
    "/v1/chat/completions": OPENAI,
    "/v1/messages": ANTHROPIC,
    "/v1/responses": RESPONSES,
}
