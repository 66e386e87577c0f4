"""Names that are somebody else's: what a spec may hold is what their readers take, each asked itself where it can be
asked here."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from huggingface_hub.utils import HFValidationError, validate_repo_id
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from yarl import URL

from compiler import check_spec, readers
from compiler.errors import dotted
from runtime.addresses import web_address
from runtime.config.base import ConfigKey, Host, Image, LabelKey, ObjectName, Registry, ResourceName
from runtime.oci import reference
from tests.compiler.golden_cases import spec_path
from tests.compiler.test_readers import NASTY

PIECES = (
    "a",
    "B",
    "7",
    "-",
    "--",
    ".",
    "..",
    "_",
    "/",
    ":",
    "@",
    "x.y",
    "é",
    " ",
    "\n",
    "$(HOME)",
    "localhost",
    "::1",
    "[",
    "]",
)
NAMES = st.lists(st.sampled_from(PIECES), max_size=6).map("".join) | st.sampled_from(NASTY)


ADAPTERS = {
    kind: TypeAdapter[str](kind) for kind in (ConfigKey, Host, Image, LabelKey, ObjectName, Registry, ResourceName)
}


def takes(kind: Any, value: str) -> bool:
    try:
        ADAPTERS[kind].validate_python(value)
    except ValidationError:
        return False
    return True


LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
SUBDOMAIN = re.compile(rf"{LABEL}(\.{LABEL})*")
QUALIFIED = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")


def label_key(text: str) -> bool:
    """As Kubernetes' ``IsQualifiedName``."""
    prefix, slash, name = text.rpartition("/")
    right = len(name) <= 63 and QUALIFIED.fullmatch(name) is not None
    return right and (not slash or (len(prefix) <= 253 and SUBDOMAIN.fullmatch(prefix) is not None))


def config_key(text: str) -> bool:
    """As Kubernetes' ``IsConfigMapKey``."""
    return re.fullmatch(r"[-._a-zA-Z0-9]{1,253}", text) is not None and text != "." and not text.startswith("..")


@settings(max_examples=300, deadline=None)
@given(NAMES)
@example("a..b/c")
@example("a-.b/c")
@example("kube-root-ca.crt")
@example(".dockerconfigjson")
@example("..data")
def test_kubernetes_has_the_same_rules(text: str) -> None:
    assert takes(LabelKey, text) == label_key(text)
    assert takes(ObjectName, text) == (len(text) <= 253 and SUBDOMAIN.fullmatch(text) is not None)
    assert takes(ConfigKey, text) == config_key(text)
    assert takes(ResourceName, text) == (label_key(text) and "/" in text)


@settings(max_examples=300, deadline=None)
@given(NAMES)
@example("Team/box:1")
@example("a//b")
@example("190:20:30")
@example("localhost:5000")
@example("a/")
@example("localhost:5000/a__b:T@sha256:" + "0" * 64)
def test_an_image_is_what_engines_call_one(text: str) -> None:
    """Both ways, but for names that an engine would complete otherwise than the spec says."""
    try:
        reference.parse(text)
        sound = text == text.strip()
    except ValueError:
        sound = False
    assert not takes(Image, text) or sound
    if sound and not takes(Image, text):
        assert re.search(r"(^|/)-|-[./:]", text), text  # no registry's name has such a part
    if takes(Registry, text):
        assert reference.parse(f"{text}/x").registry in (text, reference.HUB)


@settings(max_examples=300, deadline=None)
@given(NAMES)
@example("::1")
@example("fe80::1:2")
@example("[::1]")
@example("...")
def test_a_host_is_one_in_an_address(text: str) -> None:
    if takes(Host, text):
        url = URL(f"{web_address(text, 8790)}/v1")
        assert (url.host or "").rstrip(".") == text.lower().rstrip(".") and url.port == 8790


@settings(max_examples=300, deadline=None)
@given(NAMES)
@example("Qwen/Qwen3 8B")
@example("a/b/c")
@example("$(HOME)/x")
def test_a_models_name_is_one_of_the_hub(text: str) -> None:
    if readers.model(text) or text.startswith(("/", "./", "../", "~")) or "/" not in text:
        return  # without an owner it is one of `liverl models`
    try:
        validate_repo_id(text)
    except HFValidationError:
        pytest.fail(f"{text!r} is no name of the hub")


MACHINES = 'cluster.head={"cpus": 4, "memory_gib": 16, "rdma": 4}'


@pytest.mark.parametrize(
    ("sets", "place"),
    [
        ([MACHINES, 'cluster.rdma_resource="nvidia.com/gpu"'], "cluster.rdma_resource"),
        ([MACHINES, 'cluster.rdma_resource="memory"'], "cluster.rdma_resource"),
        ([MACHINES, 'cluster.rdma_resource="x.kubernetes.io/nic"'], "cluster.rdma_resource"),
        ([f"cluster.annotations.a{number}={'ä' * 4096}" for number in range(32)], "cluster.annotations"),
        (['cluster.storage.storage_class="fast..ssd"'], "cluster.storage.storage_class"),
        (['cluster.image="registry.example.com/Team/liverl:1"'], "cluster.image"),
    ],
)
def test_what_a_cluster_would_refuse_is_refused(sets: list[str], place: str) -> None:
    found = check_spec(spec_path("quickstart-site"), target="k8s", sets=sets)
    assert [dotted(one.path) for one in found if one.severity == "fatal"] == [place]


def test_what_a_cluster_takes_is_taken() -> None:
    volume = {"source": {"type": "config_map", "name": "kube-root-ca.crt"}, "mount_path": "/mnt/authorities"}
    secret = {"variable": "REGISTRY", "used_by": "storage", "kubernetes": {"name": "a.b", "key": ".dockerconfigjson"}}
    sets = [f"cluster.volumes={json.dumps([volume])}", f"secrets={json.dumps([secret])}"]
    found = check_spec(spec_path("quickstart-site"), target="k8s", sets=[*sets, "cluster.storage.claim=runs.team"])
    assert [one for one in found if one.severity == "fatal"] == []
