"""The page docs/spec.md: every field of the spec, from the models and their docstrings.

    python -m compiler.reference > docs/spec.md

A test compares the page with its generator.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from compiler.schema import spec_schema
from runtime.config.base import PATTERNS, TEXT

_HEAD = """# Spec reference

Every field of an experiment. Made from the models by `python -m compiler.reference > docs/spec.md`; change the models, not this page.

A spec is a Jsonnet file that evaluates to an `ExperimentSpec`, or to a sweep: `{ name: ..., sweep: { point: spec, ... } }` (a bundle per
point, experiments called `<name>-<point>`), or an array of specs that bring different names. `specs/lib/liverl.libsonnet` has presets.
Unknown fields are refused (but for `$schema`, which is for editors) and types are not converted. Where a field takes several objects, `type` chooses among them.
"""  # noqa: E501 - Markdown for people
_ROOT = "ExperimentSpec"


def page() -> str:
    """The whole page, Markdown."""
    schema = spec_schema()
    definitions: dict[str, Any] = {**schema.get("$defs", {}), _ROOT: schema}
    parts = [_HEAD.rstrip()]
    for name in _in_order(definitions):
        definition = definitions[name]
        parts.append(f"## {name}")
        if definition.get("description"):
            parts.append(_line(definition["description"]))
        required = set(definition.get("required", ()))
        rows = ["| field | takes | default | meaning |", "|---|---|---|---|"]
        for field, rule in definition.get("properties", {}).items():
            default = "required" if field in required else f"`{_json(rule['default'])}`" if "default" in rule else ""
            rows.append(
                f"| `{field}` | {_cell(_takes(rule))} | {_cell(default)} | {_cell(rule.get('description', ''))} |"
            )
        parts.append("\n".join(rows))
    return "\n\n".join(parts) + "\n"


def _in_order(definitions: dict[str, Any]) -> list[str]:
    """From the experiment downwards, in the order of the fields."""
    found: list[str] = []
    waiting = [_ROOT]
    while waiting:
        name = waiting.pop(0)
        if name not in found:
            found.append(name)
            waiting += _names(definitions[name].get("properties", {}))
    return found


def _names(node: Any) -> list[str]:
    """Definitions that a part of the schema refers to."""
    if isinstance(node, list):
        return [name for child in node for name in _names(child)]
    if not isinstance(node, dict):
        return []
    here = [_name(node)] if isinstance(node.get("$ref"), str) else []
    return here + [
        name for key, child in node.items() if key not in ("discriminator", "default") for name in _names(child)
    ]


def _name(reference: dict[str, Any]) -> str:
    return str(reference["$ref"]).rsplit("/", 1)[-1]


def _takes(rule: dict[str, Any]) -> str:
    if "$ref" in rule:
        return f"[{_name(rule)}](#{_name(rule).lower()})"
    if "const" in rule:
        return f"`{_json(rule['const'])}`"
    if "enum" in rule:
        return ", ".join(f"`{_json(value)}`" for value in rule["enum"])
    if options := rule.get("oneOf") or rule.get("anyOf"):
        return " or ".join(map(_takes, options))
    kind = str(rule.get("type", "anything"))
    if kind == "array":
        return f"list of {_takes(rule.get('items', {}))}" + (
            f", at least {rule['minItems']}" if rule.get("minItems") else ""
        )
    if kind == "object" and isinstance(rule.get("additionalProperties"), dict):
        return f"object of {_takes(rule['additionalProperties'])}"
    signs = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
    bounds = [f"{sign} {_json(rule[key])}" for key, sign in signs.items() if key in rule]
    bounds += [f"at most {rule['maxLength']} characters"] if "maxLength" in rule else []
    if rule.get("pattern", TEXT) != TEXT:
        bounds.append(PATTERNS[rule["pattern"]].removeprefix("not "))
    return ", ".join([{"integer": "whole number"}.get(kind, kind), *bounds])


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _line(text: str) -> str:
    return " ".join(text.replace("``", "`").split())


def _cell(text: str) -> str:
    return _line(text).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(page())
