"""The folder of models that were taken in: one Hugging Face folder per name, with a record of where it came from.

Knows names, files and digests; not how a model is made. A folder appears whole or not at all.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from runtime.errors import MachineError, UserError
from runtime.files import as_umask_says

RECORD = "liverl-model.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class ModelRecord(BaseModel):
    """``liverl-model.json``. ``source``: as it was asked for, with its version where it has one; ``source_sha256``: of
    the one file that it came as (GGUF), else None; ``files``: name -> SHA-256 of each file that is served or trained;
    ``licence``: as its publisher names it, "unknown" where nothing says it; ``changed``: what was mended on the way."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    source: str
    source_sha256: str | None
    licence: str
    parameters: int
    converted_by: str | None
    changed: tuple[str, ...]
    files: dict[str, str]


def models_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "liverl" / "models"


def check_name(name: str) -> None:
    """Raises ``UserError`` for a name that could be taken for a path or for a name of the hub."""
    if not _NAME.fullmatch(name):
        raise UserError(
            f"--name {name!r}: use letters, digits and . _ - only, at most 100 (a slash would make it a path)"
        )


def find(name: str) -> Path | None:
    """The folder of a model that was taken in under this name."""
    folder = models_folder() / name
    return folder if _NAME.fullmatch(name) and (folder / RECORD).is_file() else None


def records() -> list[tuple[Path, ModelRecord | None]]:
    """Every model here by name; None for a record that cannot be read."""
    return [(file.parent, _read(file)) for file in sorted(models_folder().glob(f"*/{RECORD}"))]


def _read(file: Path) -> ModelRecord | None:
    try:
        return ModelRecord.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return None


def take_in(
    name: str,
    make: Callable[[Path], None],
    *,
    source: str,
    source_sha256: str | None = None,
    licence: str = "unknown",
    converted_by: str | None = None,
    changed: Sequence[str] = (),
    replace: bool = False,
) -> tuple[Path, ModelRecord]:
    """Let ``make`` fill a folder and keep it as ``name``, with its record (``changed`` is read afterwards). Raises
    ``UserError`` when the name is taken and not to be replaced, ``MachineError`` when the disk fails."""
    check_name(name)
    target = models_folder() / name
    try:
        with _alone(name):
            if target.exists() and not replace:
                raise UserError(f"{target}: there is a model of this name; --replace, or choose another --name")
            partial = target.with_name(f".{name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            try:
                make(partial)
                record = ModelRecord(
                    name=name,
                    source=source,
                    source_sha256=source_sha256,
                    licence=licence,
                    parameters=count_parameters(partial),
                    converted_by=converted_by,
                    changed=tuple(changed),
                    files={file.name: digest(file) for file in sorted(partial.iterdir()) if file.is_file()},
                )
                (partial / RECORD).write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
                as_umask_says(partial)
                if target.exists():
                    shutil.rmtree(target)
                partial.rename(target)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise MachineError(f"{target}: {error.strerror}", fix=f"free space below {models_folder()}") from error
    return target, record


def remove(name: str) -> None:
    """Raises ``UserError`` when there is none."""
    folder = find(name)
    if folder is None:
        raise UserError(f"{name}: no such model here; there are: {', '.join(here()) or 'none'}")
    with _alone(name):
        shutil.rmtree(folder)


def here() -> list[str]:
    return [folder.name for folder, _ in records()]


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """Two commands on one machine make a model one after the other."""
    models_folder().mkdir(parents=True, exist_ok=True)
    with (models_folder() / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def count_parameters(folder: Path) -> int:
    """From the headers of its safetensors files; a tied head counts once, as it is stored."""
    return sum(
        math.prod(tensor["shape"])
        for file in folder.glob("*.safetensors")
        for name, tensor in safetensors_header(file).items()
        if name != "__metadata__"
    )


def safetensors_header(file: Path) -> dict[str, dict[str, list[int]]]:
    """Name -> dtype, shape and place of every tensor. Format: huggingface/safetensors, README. Raises ``UserError``."""
    try:
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            if size > 100 << 20:
                raise ValueError(f"a header of {size:,} bytes")
            header = json.loads(stream.read(size))
    except ValueError as error:
        raise UserError(f"{file}: not a safetensors file: {error}") from None
    if not isinstance(header, dict):
        raise UserError(f"{file}: not a safetensors file: its header is no object")
    return header
