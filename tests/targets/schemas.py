"""The schemas of the programs that read bundles, each used as the program itself uses it. All errors at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml
from jsonschema.validators import extend
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7

DATA = Path(__file__).parent / "data"
KUBERNETES = "1.37"
CUSTOM = {
    "RayJob": DATA / "kuberay" / "rayjob.v1.json",
    "LocalQueue": DATA / "kueue" / "localqueue.v1beta2.json",
}
"""Kinds with a vendored CRD schema."""
WITHOUT_SCHEMA = {"Kustomization", "ServiceMonitor"}
"""Kinds whose schema is not at hand: our own lint is all that looks at them."""
NOT_MANIFESTS = ("verl.yaml", "vllm.yaml", "references.yaml")


def documents(files: dict[str, str]) -> list[dict[str, Any]]:
    """Every object of a Kubernetes bundle."""
    names = [name for name in files if name.endswith(".yaml") and name not in NOT_MANIFESTS]
    return [document for name in names for document in yaml.load_all(files[name], Loader=yaml.CSafeLoader)]


def of_kind(files: dict[str, str], kind: str) -> list[dict[str, Any]]:
    return [document for document in documents(files) if document["kind"] == kind]


@cache
def _folder() -> Path:
    root = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
    return next(root.glob(f"v{KUBERNETES}.*-local-strict"))


@cache
def _schema(path: Path) -> Any:
    found = json.loads(path.read_text())
    return found.get("schema", found) if path.is_relative_to(DATA) else found


@cache
def _registry() -> Registry[Any]:
    """With the definitions that all kinds refer to, megabytes, read and indexed once."""

    def resource(uri: str) -> Resource[Any]:
        contents = json.loads((_folder() / uri.rpartition("/")[2]).read_text())
        return Resource.from_contents(contents, default_specification=DRAFT7)

    registry: Registry[Any] = Registry(retrieve=resource)  # type: ignore[call-arg]
    return registry.with_resource("/api/_definitions.json", resource("_definitions.json")).crawl()


def kubernetes_errors(document: dict[str, Any]) -> list[str]:
    """What an API server would refuse, by schema; custom resources after defaulting. A kind that no schema covers is
    an error."""
    kind = document["kind"]
    if kind in CUSTOM:
        schema = _schema(CUSTOM[kind])
        errors = jsonschema.Draft7Validator(schema).iter_errors(with_defaults(schema, document))
    else:
        group, _, version = document["apiVersion"].rpartition("/")
        stem = "-".join(part for part in (kind.lower(), group.split(".")[0], version) if part)
        path = _folder() / f"{stem}.json"
        if not path.is_file():
            return [f"{kind}: no schema for {document['apiVersion']}"]
        errors = jsonschema.Draft7Validator(_schema(path), registry=_registry()).iter_errors(document)
    return [f"{kind}.{error.json_path}: {error.message}" for error in errors]


def with_defaults(schema: Any, value: Any) -> Any:
    """What the API server does first: drop nulls, fill in defaults."""
    if isinstance(value, dict):
        properties = schema.get("properties", {}) if isinstance(schema, dict) else {}
        filled = {}
        for name, child in value.items():
            inner = properties.get(name, schema.get("additionalProperties", {}) if isinstance(schema, dict) else {})
            if child is not None:
                filled[name] = with_defaults(inner, child)
        for name, inner in properties.items():
            if name not in filled and isinstance(inner, dict) and "default" in inner:
                filled[name] = inner["default"]
        return filled
    if isinstance(value, list):
        inner = schema.get("items", {}) if isinstance(schema, dict) else {}
        return [with_defaults(inner, child) for child in value]
    return value


def compose_errors(document: Any) -> list[str]:
    """What Compose refuses."""
    errors = jsonschema.Draft7Validator(_schema(DATA / "compose" / "compose-spec.json")).iter_errors(document)
    return [f"{error.json_path}: {error.message}" for error in errors]


def _one_of_whatever_case(_: Any, options: list[str], value: Any, __: Any) -> Iterator[jsonschema.ValidationError]:
    if isinstance(value, str) and value.lower() not in {option.lower() for option in options}:
        yield jsonschema.ValidationError(f"{value!r} is not one of {options!r}")


_SkyValidator = extend(jsonschema.Draft7Validator, {"case_insensitive_enum": _one_of_whatever_case})


def skypilot_errors(task: dict[str, Any]) -> list[str]:
    """What SkyPilot refuses before it asks a catalogue: the task, its resources and its storage."""
    parts: list[tuple[str, Any]] = [("task", task), ("resources", task["resources"])]
    parts += [("storage", mount) for mount in task.get("file_mounts", {}).values() if isinstance(mount, dict)]
    return [
        f"{name}.{error.json_path}: {error.message}"
        for name, part in parts
        for error in _SkyValidator(_schema(DATA / "skypilot" / f"{name}.json")).iter_errors(part)
    ]
