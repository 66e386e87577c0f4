"""Every key of Harbor's ``task.toml``, and what becomes of it here: done, of no effect, found out by the task's own
solution, or refused by name before a run.

Published schema: Harbor 0.25.0, ``harbor/models/task/config.py`` (schema_version 1.4), with the older spellings that it
still reads. ``[]`` stands for the items of a list. What lies below a refused key is refused with it. Keys that the
schema does not know are ignored, as Harbor ignores them, unless the task was written for a later schema.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

SCHEMA = (1, 4)
"""The latest ``schema_version`` that is known here."""


@dataclass(frozen=True)
class Key:
    """``how``: honoured; harmless (nothing here depends on it); proven (the task's own solution shows whether the box
    has it; without a solution the task is refused); refused. ``why`` is for people. ``harmless``: values of a proven or
    refused key that ask for nothing."""

    how: Literal["honoured", "harmless", "proven", "refused"]
    why: str
    harmless: tuple[object, ...] = ()


def _honoured(why: str) -> Key:
    return Key("honoured", why)


def _harmless(why: str) -> Key:
    return Key("harmless", why)


def _proven(why: str, *harmless: object) -> Key:
    return Key("proven", why, harmless)


def _refused(why: str, *harmless: object) -> Key:
    return Key("refused", why, harmless)


_ROOT = ("root", 0, "0")
_NETWORK = _proven("boxes have no network", "no-network")
_USER = _refused("boxes know root only", *_ROOT)
_HOSTS = _refused("boxes reach no host; leave it out, and let network_mode be no-network", [])

KEYS: dict[str, Key] = {
    "schema_version": _honoured("later ones than 1.4 may not use keys that are unknown here"),
    "version": _honoured("older spelling of schema_version"),
    "source": _harmless("where the task came from"),
    "multi_step_reward_strategy": _harmless("speaks of steps, which are refused"),
    "steps": _refused("tasks of several steps are not read; make one task of each step", []),
    "artifacts": _honoured("taken to the verifier besides the work directory"),
    "artifacts[].source": _honoured("a path in the work directory or in /logs/artifacts"),
    "artifacts[].destination": _harmless("where Harbor keeps it on its host"),
    "artifacts[].exclude": _refused("an artifact is taken whole", []),
    "artifacts[].service": _refused("there is one box and no other service", "main"),
    "task.name": _harmless("a label; a task is called as its folder"),
    "task.version": _harmless("a label"),
    "task.description": _harmless("a label"),
    "task.authors": _harmless("a label"),
    "task.authors[].name": _harmless("a label"),
    "task.authors[].email": _harmless("a label"),
    "task.keywords": _harmless("a label"),
    "metadata": _harmless("free; LiveRL's own facts are in [metadata.liverl]"),
    "agent.timeout_sec": _honoured("the shorter of it and environment.agent_timeout_sec"),
    "agent.user": _USER,
    "agent.network_mode": _NETWORK,
    "agent.allowed_hosts": _HOSTS,
    "verifier.timeout_sec": _honoured("the shorter of it and environment.verifier_timeout_sec"),
    "verifier.env": _honoured("variables of tests/test.sh"),
    "verifier.user": _USER,
    "verifier.network_mode": _NETWORK,
    "verifier.allowed_hosts": _HOSTS,
    "verifier.environment_mode": _honoured("tests always run in a box of their own; separate: on the artifacts alone"),
    "verifier.environment": _refused("the tests' box is made like the agent's"),
    "verifier.collect": _refused("no command is run between agent and verifier", []),
    "solution.env": _honoured("variables of solution/solve.sh"),
    "environment.build_timeout_sec": _honoured("of building the task's Dockerfile"),
    "environment.docker_image": _honoured("the image that the task's boxes are made of"),
    "environment.os": _refused("boxes are Linux", "linux"),
    "environment.cpus": _harmless("boxes share the machine's cores"),
    "environment.memory_mb": _honoured("the smaller of it and environment.memory_mib; more must be proven"),
    "environment.memory": _honoured("older spelling of memory_mb, with a unit"),
    "environment.storage_mb": _harmless("a box's files live in its memory"),
    "environment.storage": _harmless("older spelling of storage_mb"),
    "environment.gpus": _refused("boxes have no GPU", 0),
    "environment.gpu_types": _refused("boxes have no GPU", []),
    "environment.tpu": _refused("boxes have no TPU"),
    "environment.mcp_servers": _refused("agents are given no MCP servers", []),
    "environment.env": _honoured("variables of every command in the task's boxes"),
    "environment.skills_dir": _refused("agents are given no skills"),
    "environment.healthcheck": _refused("boxes start no service that could be waited for"),
    "environment.workdir": _honoured("the work directory; else the Dockerfile's"),
    "environment.network_mode": _NETWORK,
    "environment.allowed_hosts": _HOSTS,
    "environment.allow_internet": _proven("boxes have no network", False),
}


@dataclass(frozen=True)
class Number:
    """What a number of the schema may be: more than 0, at most ``most``. Harbor sets no bounds, and Python's timers end
    with an error of their own where a number is none."""

    most: int
    unit: str
    whole: bool = False

    def problem(self, value: object) -> str:
        """Why it is not one; empty where it is. Numbers in quotes are read, as Harbor reads them."""
        try:
            read = float("nan") if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            read = float("nan")
        if 0 < read <= self.most and not (self.whole and read % 1):
            return ""
        return f"give {'a whole number' if self.whole else 'a number'} of {self.unit}, more than 0, at most {self.most}"


_SECONDS = Number(30 * 86400, "seconds")
_MIB = Number(1 << 24, "MiB", whole=True)
NUMBERS: dict[str, Number] = {
    "agent.timeout_sec": _SECONDS,
    "verifier.timeout_sec": _SECONDS,
    "environment.build_timeout_sec": _SECONDS,
    "environment.cpus": Number(1 << 16, "cores", whole=True),
    "environment.memory_mb": _MIB,
    "environment.storage_mb": _MIB,
}
TEST_SECONDS = Number(86400, "seconds")
"""``test_timeout_sec`` of [metadata.liverl]."""

TABLES = ("task", "agent", "verifier", "solution", "environment")
"""Keys that hold tables whose keys are listed above."""


def problems_of(raw: Mapping[str, Any]) -> list[str]:
    """What a ``task.toml`` asks for that cannot be done here, key by key."""
    found = []
    later = _later(raw)
    for path, value in _walk(raw):
        key = KEYS.get(path)
        if key is None:
            if later:
                found.append(f"{path}: not known here; the task is of schema {'.'.join(map(str, later))}")
        elif key.how == "refused" and not _asks_for_nothing(key, value):
            found.append(f"{path} = {_shown(value)}: {key.why}")
        elif path in NUMBERS and (why := NUMBERS[path].problem(value)):
            found.append(f"{path} = {_shown(value)}: {why}")
        elif path.endswith(".env") and isinstance(value, Mapping):
            found += _values(path, value)
        elif path == "environment.allow_internet" and value not in (True, False):
            found.append(f"{path} = {_shown(value)}: give true or false")
        elif path.endswith(".network_mode") and value not in ("no-network", "public"):
            found.append(f"{path} = {_shown(value)}: {key.why} that could be opened for chosen hosts")
    return found


def promises_of(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """What a ``task.toml`` asks for that only a run of the task's own solution can show to be there, or not needed."""
    return tuple(
        f"{path} = {_shown(value)}, but {KEYS[path].why}"
        for path, value in _walk(raw)
        if path in KEYS and KEYS[path].how == "proven" and not _asks_for_nothing(KEYS[path], value)
    )


def size_mb(text: str) -> int:
    """The older spelling of sizes, ``4G``, ``512M`` or ``2048K``, in MiB. Raises ``ValueError``."""
    number, unit = text.strip().upper()[:-1], text.strip().upper()[-1:]
    if unit not in ("G", "M", "K"):
        raise ValueError(f"{text!r} is no size such as '4G' or '512M'")
    try:
        return int(float(number) * {"G": 1024, "M": 1, "K": 1 / 1024}[unit])
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is no size such as '4G' or '512M'") from None


def plain_value(text: str) -> str:
    """A value of an ``env`` table. ``${NAME:-default}`` stands for its default: no variable of this host reaches a
    task. Raises ``ValueError`` for ``${NAME}``."""
    if "\0" in text:
        raise ValueError(f"{text!r} holds a NUL, which no variable can")
    match = re.fullmatch(r"\$\{([^}:]+)(?::-(.*))?\}", text)
    if match is None:
        return text
    if match[2] is None:
        raise ValueError(f"{text} takes a variable of the host, which no task gets; write its value")
    return match[2]


def _walk(raw: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in raw.items():
        if name in TABLES and isinstance(value, Mapping):
            yield from ((f"{name}.{key}", inner) for key, inner in value.items())
        else:
            yield name, value
        if name == "artifacts" and isinstance(value, list):
            for item in value:
                if isinstance(item, Mapping):
                    yield from ((f"{name}[].{key}", inner) for key, inner in item.items())


def _asks_for_nothing(key: Key, value: object) -> bool:
    lowered = value.lower() if isinstance(value, str) else value
    return any(type(lowered) is type(harmless) and lowered == harmless for harmless in key.harmless)


def _values(path: str, value: Mapping[str, object]) -> Iterator[str]:
    for name, text in value.items():
        if not name or "=" in name or "\0" in name:
            yield f"{path}: {name!r} is no name of a variable; it has a character at least, and no '=' or NUL"
        if not isinstance(text, str):
            yield f"{path}.{name} = {_shown(text)}: write it as text, in quotes"
            continue
        try:
            plain_value(text)
        except ValueError as error:
            yield f"{path}.{name}: {error}"


def _later(raw: Mapping[str, Any]) -> tuple[int, ...]:
    version = str(raw.get("schema_version", raw.get("version", "")))
    numbers = tuple(int(part) for part in version.split(".") if part.isdigit())
    return numbers if numbers > SCHEMA else ()


def _shown(value: object) -> str:
    if isinstance(value, Mapping | list):
        return "{…}" if isinstance(value, Mapping) else "[…]"
    return repr(value)
