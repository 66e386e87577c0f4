"""Renders manifest templates so that no value can change their structure, and says which spec fields each line follows
from.

Every template is rendered twice: once with the values, once with a unique token in place of each. The second text is
parsed and the tokens replaced in the parsed objects: that is the intended object. The first text, which is what gets
written, must parse to the same. Knows YAML and Jinja2; knows nothing of what the manifests mean.
"""

from __future__ import annotations

import hashlib
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

from compiler import emit, readers
from compiler.reads import Reads
from targets.trace import NAME, Trace, TracedEnvironment

_Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_UNPRINTABLE = re.compile("[^\t\n\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|[\x85\u2028\u2029\ufeff]")
_TOKEN = re.compile(r"liverl-token-\d+-end")


class Asked:
    """Values for templates, each made when it is asked for: what is read for it is an origin of where it is used."""

    def __init__(self, **makers: Callable[[], Any]) -> None:
        self._makers = makers

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name not in self._makers:
            raise AttributeError(name)
        return self._makers[name]()


@dataclass(frozen=True)
class Rendered:
    """``objects``: the documents of ``text``; ``origins``: path inside it (``[i].`` first when there are several) ->
    spec fields."""

    text: str
    objects: list[Any]
    origins: Mapping[str, tuple[str, ...]]


def render(template: str, context: Mapping[str, Any], reads: Reads) -> Rendered:
    """Render ``templates/<template>``. A value that changes the structure is a bug of the template:
    ``AssertionError``."""
    compiled = _environment().get_template(template)
    text = Trace(reads, compiled, {**context, "_quote": quote}).text
    tokens: dict[str, Any] = {}

    def token(value: Any, *, indent: int | None = None) -> str:
        name = f"liverl-token-{len(tokens)}-end"
        tokens[name] = value
        return name

    skeleton = Trace(reads, compiled, {**context, "_quote": token})
    documents = emit.nodes(skeleton.text)
    intended = [_fill(_Loader("").construct_document(document), tokens) for document in documents]
    objects = list(yaml.load_all(text, Loader=_Loader))
    assert objects == intended, f"{template}: a value changed the structure of the manifest"
    lines = skeleton.origins()
    origins = {
        _TOKEN.sub(lambda name: str(tokens[name[0]]), path): lines[line]
        for line, path in emit.paths_by_line(documents).items()
        if line in lines
    }
    return Rendered(text, objects, origins)


@dataclass(frozen=True)
class RenderedText:
    """``origins``: ``line N`` -> spec fields."""

    text: str
    origins: Mapping[str, tuple[str, ...]]

    def within(self, path: str) -> dict[str, tuple[str, ...]]:
        """The origins where the text is the value at ``path`` of a manifest."""
        return {f"{path}[{line}]": origins for line, origins in self.origins.items()}


def render_text(template: str, context: Mapping[str, Any], reads: Reads) -> RenderedText:
    """Render a shell script or a Dockerfile. Values go through ``sh``, one shell word."""
    trace = Trace(reads, _environment().get_template(template), context)
    return RenderedText(trace.text, {f"line {number}": origins for number, origins in trace.origins().items()})


def quote(value: Any, *, indent: int | None = None) -> str:
    """One YAML scalar (or flow collection). Strings of several lines become a literal block when ``indent`` is given
    and they allow it."""
    if indent is not None and isinstance(value, str) and _blockable(value):
        pad = " " * indent
        return "|\n" + "".join(f"{pad}{line}\n" if line else "\n" for line in value.split("\n")[:-1]).rstrip("\n")
    text = json.dumps(value, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda found: f"\\U{ord(found[0]):08x}", text)


def export_name(source: Any, kind: str, mount_path: str, read_only: bool) -> str:
    """What Compose calls the volume of an export. It keeps a volume of a name with the options that it was made with,
    so that another export, or another way to mount it, has another name."""
    if source.type != "nfs":
        return kind
    what = json.dumps([source.server, source.path, mount_path, read_only])
    return f"{kind}-{hashlib.sha256(what.encode()).hexdigest()[:10]}"


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


def _fill(node: Any, tokens: Mapping[str, Any]) -> Any:
    if isinstance(node, dict):
        return {tokens.get(key, key): _fill(child, tokens) for key, child in node.items()}
    if isinstance(node, list):
        return [_fill(child, tokens) for child in node]
    if isinstance(node, str) and node in tokens:
        return json.loads(json.dumps(tokens[node]))
    assert not (isinstance(node, str) and _TOKEN.search(node)), (
        f"{node}: a value is only part of a scalar; join the parts before the filter"
    )
    return node


@cache
def _environment() -> jinja2.Environment:
    environment = TracedEnvironment(
        loader=jinja2.FileSystemLoader(Path(str(resources.files("templates")))),
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )

    @jinja2.pass_context
    def q(context: jinja2.runtime.Context, value: Any, *, indent: int | None = None) -> str:
        assert not isinstance(value, jinja2.Undefined), "a template names a value that does not exist"
        write: Callable[..., str] = context["_quote"]
        trace: Trace = context[NAME]
        return write(trace.plain(value), indent=indent) + trace.value()

    @jinja2.pass_context
    def sh(context: jinja2.runtime.Context, value: Any) -> str:
        trace: Trace = context[NAME]
        return shlex.quote(str(value)) + trace.value()

    environment.filters["export_name"] = export_name
    environment.filters["q"] = q
    environment.filters["sh"] = sh
    environment.filters["compose"] = readers.compose
    environment.filters["kubernetes_env"] = readers.kubernetes_env
    return environment
