"""Tool parsers by name. A further model family adds one module and one entry here."""

from __future__ import annotations

from runtime.proxy.parsers.base import ToolParser
from runtime.proxy.parsers.compact import parse_compact
from runtime.proxy.parsers.hermes import parse_hermes

PARSERS: dict[str, ToolParser] = {"hermes": parse_hermes, "compact": parse_compact}
