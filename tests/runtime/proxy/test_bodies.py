"""Parsing only what is new gives what parsing everything gives, for every change that an agent may make."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.proxy import bodies
from runtime.proxy.bodies import Bodies

TEXTS = st.one_of(st.sampled_from(["]", "],", '"', '\\"]', "[", "{}", '"],"messages":["', "\\"]), st.text(max_size=4))
MESSAGES = st.one_of(
    st.fixed_dictionaries({"role": st.just("user"), "content": TEXTS}),
    st.fixed_dictionaries({"role": st.just("user"), "content": st.lists(TEXTS, max_size=3)}),
    st.lists(TEXTS, max_size=2),
    TEXTS,
)
FIELDS = st.dictionaries(
    st.sampled_from(["model", "tools", "a", ""]), st.one_of(TEXTS, st.lists(TEXTS, max_size=3)), max_size=3
)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "_WORTH_BYTES", 0)


@given(
    before=FIELDS,
    after=FIELDS,
    messages=st.lists(MESSAGES, max_size=3),
    steps=st.lists(st.tuples(st.lists(MESSAGES, max_size=2), FIELDS, st.booleans(), st.booleans()), max_size=5),
    compact=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_it_equals_a_whole_parse(
    before: dict[str, Any],
    after: dict[str, Any],
    messages: list[Any],
    steps: list[tuple[list[Any], dict[str, Any], bool, bool]],
    compact: bool,
) -> None:
    parser = Bodies()
    for added, fields, change_after, grow_before in [([], {}, False, False), *steps]:
        messages = messages + added
        after = fields if change_after else after
        before = {**before, "grown": [*before.get("grown", []), "x"]} if grow_before else before
        tail = {key: value for key, value in after.items() if key not in before}
        raw = json.dumps(
            {**before, "messages": messages, **tail}, separators=(",", ":") if compact else (", ", ": ")
        ).encode()
        parsed = parser.parse(raw)
        whole = orjson.loads(raw)
        assert parsed == whole and list(parsed) == list(whole)


def test_old_messages_stay_the_same_objects() -> None:
    parser = Bodies()
    messages = [{"role": "user", "content": "x" * 100}]
    first = parser.parse(orjson.dumps({"model": "p", "messages": messages, "stream": True}))
    messages += [{"role": "assistant", "content": "]"}, {"role": "user", "content": "go"}]
    second = parser.parse(orjson.dumps({"model": "p", "messages": messages, "stream": False}))
    assert second == {"model": "p", "messages": messages, "stream": False}
    assert second["messages"][0] is first["messages"][0]


def test_what_is_not_json_is_refused_as_ever() -> None:
    parser = Bodies()
    raw = orjson.dumps({"messages": [1]})
    parser.parse(raw)
    for bad in (b'{"messages":[1,]}', b'{"messages":[1,2]', b'{"messages":[1,2}', b"x"):
        with pytest.raises(orjson.JSONDecodeError):
            parser.parse(bad)
