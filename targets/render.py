"""Renders manifest templates so that no value can change their structure, and says which spec field each value came
from.

Every template is rendered twice: once with the values, once with a unique token in place of each. The second text is
parsed and the tokens replaced in the parsed objects: that is the intended object. The first text, which is what gets
written, must parse to the same. Knows YAML and Jinja2; knows nothing of what the manifests mean.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import yaml

_Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_UNPRINTABLE = re.compile("[^\t\n\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|[\x85\u2028\u2029\ufeff]")
_TOKEN = re.compile(r"liverl-token-\d+-end")
_ORIGINS = re.compile("\x02([^\x03]*)\x03")


@dataclass(frozen=True)
class Rendered:
    """``objects``: the documents of ``text``; ``origins``: path inside it (``[i].`` first when there are several) ->
    spec fields."""

    text: str
    objects: list[Any]
    origins: Mapping[str, tuple[str, ...]]


def render(template: str, context: Mapping[str, Any]) -> Rendered:
    """Render ``templates/<template>``. A value that changes the structure is a bug of the template:
    ``AssertionError``."""
    compiled = _environment().get_template(template)
    text = compiled.render(**context, _quote=quote)
    tokens: dict[str, tuple[Any, tuple[str, ...]]] = {}

    def token(value: Any, *origins: str, indent: int | None = None) -> str:
        name = f"liverl-token-{len(tokens)}-end"
        tokens[name] = (value, origins)
        return name

    skeleton = list(yaml.load_all(compiled.render(**context, _quote=token), Loader=_Loader))
    origins: dict[str, tuple[str, ...]] = {}
    several = len(skeleton) > 1
    intended = [_fill(node, f"[{index}]" if several else "", tokens, origins) for index, node in enumerate(skeleton)]
    objects = list(yaml.load_all(text, Loader=_Loader))
    assert objects == intended, f"{template}: a value changed the structure of the manifest"
    return Rendered(text, objects, origins)


@dataclass(frozen=True)
class RenderedText:
    """``origins``: ``line N`` -> spec fields."""

    text: str
    origins: Mapping[str, tuple[str, ...]]

    def within(self, path: str) -> dict[str, tuple[str, ...]]:
        """The origins where the text is the value at ``path`` of a manifest."""
        return {f"{path}[{line}]": origins for line, origins in self.origins.items()}


def render_text(template: str, context: Mapping[str, Any]) -> RenderedText:
    """Render a shell script or a Dockerfile. Values go through ``sh``, one shell word; fields named as arguments of
    ``sh`` are the origins of its line."""
    compiled = _environment().get_template(template)
    text = compiled.render(**context, _mark=lambda value, origins: value)
    marked = compiled.render(**context, _mark=lambda value, origins: value + f"\x02{' '.join(origins)}\x03")
    origins = {
        f"line {number}": found
        for number, line in enumerate(marked.split("\n"), 1)
        if (found := tuple(dict.fromkeys(" ".join(_ORIGINS.findall(line)).split())))
    }
    return RenderedText(text, origins)


def quote(value: Any, *_origins: str, indent: int | None = None) -> str:
    """One YAML scalar (or flow collection). Strings of several lines become a literal block when ``indent`` is given
    and they allow it."""
    if indent is not None and isinstance(value, str) and _blockable(value):
        pad = " " * indent
        return "|\n" + "".join(f"{pad}{line}\n" if line else "\n" for line in value.split("\n")[:-1]).rstrip("\n")
    text = json.dumps(value, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda found: f"\\U{ord(found[0]):08x}", text)


def _blockable(text: str) -> bool:
    """Whether a literal block gives back exactly this text: it ends in one newline, starts unindented and holds no
    odd characters."""
    plain = not _UNPRINTABLE.search(text) and "\t" not in text
    return (
        plain
        and text.endswith("\n")
        and not text.endswith("\n\n")
        and not text.startswith((" ", "\n"))
        and len(text) > 1
    )


def _fill(
    node: Any, path: str, tokens: Mapping[str, tuple[Any, tuple[str, ...]]], origins: dict[str, tuple[str, ...]]
) -> Any:
    if isinstance(node, dict):
        filled = {}
        for key, child in node.items():
            name = tokens[key][0] if key in tokens else key
            filled[name] = _fill(child, f"{path}.{name}" if path else str(name), tokens, origins)
        return filled
    if isinstance(node, list):
        return [_fill(child, f"{path}[{index}]", tokens, origins) for index, child in enumerate(node)]
    if isinstance(node, str) and node in tokens:
        value, found = tokens[node]
        if found:
            origins[path] = found
        return json.loads(json.dumps(value))
    assert not (isinstance(node, str) and _TOKEN.search(node)), (
        f"{path}: a value is only part of a scalar; join the parts before the filter"
    )
    return node


@cache
def _environment() -> jinja2.Environment:
    folder = Path(str(resources.files("templates")))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )

    @jinja2.pass_context
    def q(context: jinja2.runtime.Context, value: Any, *origins: str, indent: int | None = None) -> str:
        assert not isinstance(value, jinja2.Undefined), "a template names a value that does not exist"
        write: Callable[..., str] = context["_quote"]
        return write(value, *origins, indent=indent)

    environment.filters["q"] = q

    @jinja2.pass_context
    def sh(context: jinja2.runtime.Context, value: Any, *origins: str) -> str:
        mark: Callable[[str, tuple[str, ...]], str] = context["_mark"]
        return mark(shlex.quote(str(value)), origins)

    environment.filters["sh"] = sh
    return environment
