"""The wire APIs and the paths below a session that they answer. A further API adds one module and one entry here."""

from __future__ import annotations

import orjson

from runtime.proxy.dialects.anthropic import AnthropicMessages
from runtime.proxy.dialects.base import Action, Dialect
from runtime.proxy.dialects.openai import OpenAIChat
from runtime.proxy.dialects.responses import OpenAIResponses

OPENAI: Dialect = OpenAIChat()
ANTHROPIC: Dialect = AnthropicMessages()
RESPONSES: Dialect = OpenAIResponses()
DIALECTS = (OPENAI, ANTHROPIC, RESPONSES)
ROUTES: dict[str, dict[str, tuple[Dialect, Action]]] = {}
"""Path -> method -> who answers and what is done."""
for _dialect in DIALECTS:
    for _route in _dialect.routes:
        ROUTES.setdefault(_route.path, {})[_route.method] = (_dialect, _route.action)


def dialect_of(path: str) -> Dialect:
    """The dialect in which a request for ``path`` is refused: that of the route it is at or below, else the first."""
    for dialect in DIALECTS:
        if any(path == route.path or path.startswith(route.path + "/") for route in dialect.routes):
            return dialect
    return DIALECTS[0]


_MODEL_NAME = "policy"
MODELS = orjson.dumps(
    {
        "object": "list",
        "data": [
            {
                "id": _MODEL_NAME,
                "object": "model",
                "type": "model",
                "created": 0,
                "created_at": "1970-01-01T00:00:00Z",
                "owned_by": "liverl",
                "display_name": _MODEL_NAME,
            }
        ],
        "has_more": False,
        "first_id": _MODEL_NAME,
        "last_id": _MODEL_NAME,
    }
)
"""The shapes of all dialects at once: clients look only at the keys they know."""
