"""Where ``golden/`` keeps what of a compiled example, for the golden test and the refresh command alike.

    golden/SPEC/FILE                 what all targets share, as the reference target has it
    golden/SPEC/TARGET/FILE          the target's own files
    golden/SPEC/TARGET/shared.diff   what it changes in the shared ones
    golden/digests.json              SPEC/TARGET/FILE -> sha256, of every file of every bundle (of a sweep's points, of
                                     their locks, which hold the digests of all their files)

Knows the names of files; knows nothing of specs, and neither compiles nor writes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from compiler import emit
from compiler.bundle import LOCK, MAP
from tests.compiler.golden_diff import applied, difference

DIGESTS = "digests.json"
DIFF = "shared.diff"
SHARED = ("resolved.json", "verl.yaml", "vllm.yaml", "runtime.json", "SUMMARY.md", "sweep.json")
SPECIMEN = ("quickstart", "local")
"""The one case whose source map is shown."""
CONSTANT = ("references.yaml", "seccomp.json")
"""Files that follow from no spec."""
BOILERPLATE = (
    *("limitranges.yaml", "networkpolicies.yaml", "persistentvolumeclaims.yaml", "resourcequotas.yaml"),
    *("rolebindings.yaml", "roles.yaml", "serviceaccounts.yaml", "validatingadmissionpolicies.yaml"),
)
"""Manifests in which examples differ by names, sizes and ports alone: shown of the quickstarts."""
LONG_LISTS = {"one-gpu-real": ("resolved.json", "runtime.json")}
"""Files that are lists of packages for the most part: their specs say the same."""
SAME_CLUSTER = ("moe-megatron", "ppo-8gpu")
"""Examples whose RayJob is that of dense-8gpu but for its name: what they show is in what all targets share."""


def layout(name: str, bundles: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """What ``golden/`` shows of one spec. ``bundles``: target -> its files. Paths are relative to ``golden/``."""
    reference = bundles[_reference(bundles)]
    common = [file for file in SHARED if file not in LONG_LISTS.get(name, ())]
    shared = {file: reference[file] for file in common if all(file in files for files in bundles.values())}
    found = {f"{name}/{file}": text for file, text in shared.items()}
    for target, files in bundles.items():
        found |= {
            f"{name}/{target}/{file}": shown(file, text)
            for file, text in files.items()
            if file not in shared and not _by_digest_alone(name, target, file, files)
        }
        if diff := difference(shared, {file: files[file] for file in shared}, folder=target):
            found[f"{name}/{target}/{DIFF}"] = diff
    return found


def digests(name: str, bundles: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """``SPEC/TARGET/FILE`` -> sha256, of every file; of a sweep's points, of their locks, which hold those of their
    files."""
    return {
        f"{name}/{target}/{file}": _sha256(text)
        for target, files in bundles.items()
        for file, text in files.items()
        if file.endswith(LOCK) or not _of_a_point(file, files)
    }


def digests_text(found: Mapping[str, str]) -> str:
    """``digests.json``: one line a file."""
    return emit.to_json(dict(sorted(found.items())))


def restored(golden: Mapping[str, str], name: str, target: str) -> dict[str, str]:
    """What ``golden/`` shows of a bundle: shared files with the target's difference, and its own. ``golden``: path
    there -> text. Raises ``ValueError`` where difference and files do not fit together."""
    below = {path.removeprefix(f"{name}/"): text for path, text in golden.items() if path.startswith(f"{name}/")}
    shared = {file: text for file, text in below.items() if "/" not in file}
    own = {path.removeprefix(f"{target}/"): text for path, text in below.items() if path.startswith(f"{target}/")}
    return {**applied(shared, own.pop(DIFF, "")), **own}


def shown(file: str, text: str) -> str:
    """The text of a target's own file; a source map with one line per entry."""
    if file == MAP:
        return f"{_outlined(json.loads(text), levels=3)}\n"
    return text


def _outlined(value: Any, *, levels: int, pad: str = "") -> str:
    """JSON whose mappings are laid out in lines down to ``levels``; what is deeper stays on one."""
    if not isinstance(value, dict) or not value or not levels:
        return json.dumps(value, ensure_ascii=False)
    inner = f"{pad}  "
    entries = (f"{json.dumps(key)}: {_outlined(one, levels=levels - 1, pad=inner)}" for key, one in value.items())
    return "{\n" + ",\n".join(f"{inner}{entry}" for entry in entries) + f"\n{pad}}}"


def _reference(bundles: Mapping[str, object]) -> str:
    """The target whose files stand for all: the plainest."""
    return "local" if "local" in bundles else min(bundles)


def _by_digest_alone(name: str, target: str, file: str, files: Mapping[str, str]) -> bool:
    """Locks; maps and what is the same in every bundle, one specimen aside; and everything of a sweep's points."""
    if (
        file.endswith(LOCK)
        or (file == MAP and (name, target) != SPECIMEN)
        or (file in CONSTANT and name != SPECIMEN[0])
    ):
        return True
    if file in LONG_LISTS.get(name, ()) or (file == "rayjobs.yaml" and name in SAME_CLUSTER):
        return True
    return (file in BOILERPLATE and not name.startswith(SPECIMEN[0])) or _of_a_point(file, files)


def _of_a_point(file: str, files: Mapping[str, str]) -> bool:
    point, slash, _ = file.partition("/")
    return bool(slash) and f"{point}/{LOCK}" in files


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
