"""Run directories in a bucket, or in a folder that several machines see: written file by file, a checkpoint's marker
last, so that what has its marker is whole.

Knows files and their places; not what makes a run. The clouds' protocols are pyarrow's.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import pyarrow as pa
from pyarrow import fs

from runtime.errors import UserError
from runtime.launch.rundir import RunRecord, record_of
from runtime.trainer.stable import MARKER, step_folder

_CHUNK = 8 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_AZURE = re.compile(r"https://([a-z0-9]+)\.blob\.core\.windows\.net/(.+)")


class BucketError(Exception):
    """The bucket did not do what was asked: no way to it, no right, no such thing."""


@dataclass(frozen=True)
class Found:
    """One run of a bucket: ``place`` is its folder in it."""

    place: str
    record: RunRecord

    @property
    def name(self) -> str:
        return f"{self.record.experiment}/{self.record.run}"


class Bucket:
    """What lies below one URL (``runtime.config.upload.PLACE``). Every method may raise ``BucketError``."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        try:
            self._files, self._root = _opened(self.url)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise BucketError(f"{self.url}: {_said(error)}") from None

    def write(self, place: str, content: bytes) -> None:
        with _errors(self.url), self._create(place) as stream:
            stream.write(content)

    def put(self, path: Path, place: str) -> None:
        """Copy one file. Raises ``FileNotFoundError`` where it has gone meanwhile."""
        with path.open("rb") as source, _errors(self.url), self._create(place) as stream:
            while chunk := source.read(_CHUNK):
                stream.write(chunk)

    def read(self, place: str) -> bytes | None:
        """None where there is none."""
        with _errors(self.url):
            try:
                with self._files.open_input_stream(self._at(place)) as stream:
                    return bytes(stream.read())
            except FileNotFoundError:
                return None

    def fetch(self, place: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        with _errors(self.url), self._files.open_input_stream(self._at(place)) as stream, partial.open("wb") as file:
            while chunk := stream.read(_CHUNK):
                file.write(chunk)
        partial.replace(path)

    def files(self, place: str = "") -> list[str]:
        """Every file below a folder, as places; nothing where there is no such folder."""
        with _errors(self.url):
            found = self._files.get_file_info(fs.FileSelector(self._at(place), recursive=True, allow_not_found=True))
        return sorted(self._place(one.path) for one in found if one.type == fs.FileType.File)

    def folders(self, place: str = "") -> list[str]:
        with _errors(self.url):
            found = self._files.get_file_info(fs.FileSelector(self._at(place), allow_not_found=True))
        return sorted(self._place(one.path) for one in found if one.type == fs.FileType.Directory)

    def delete(self, place: str) -> None:
        """Remove a file; what is gone already is no error."""
        with _errors(self.url), suppress(FileNotFoundError):
            self._files.delete_file(self._at(place))

    def put_checkpoint(self, folder: Path, place: str) -> None:
        """Copy a whole checkpoint, its marker last. Raises ``FileNotFoundError`` where it was pruned meanwhile."""
        there = {*self.files(place)}
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_file() and path.name != MARKER and f"{place}/{name}" not in there:
                self.put(path, f"{place}/{name}")
        self.put(folder / MARKER, f"{place}/{MARKER}")

    def drop_checkpoint(self, place: str) -> None:
        """Remove a checkpoint, its marker first."""
        self.delete(f"{place}/{MARKER}")
        for name in self.files(place):
            self.delete(name)

    def checkpoints(self, run: str) -> dict[int, str]:
        """Step -> folder of every whole checkpoint of a run."""
        found = {}
        for name in self.files(f"{run}/checkpoints"):
            step = name.removeprefix(f"{run}/checkpoints/").partition("/")[0].rpartition("_")[2]
            if name.endswith(f"/{MARKER}") and step.isdecimal():
                found[int(step)] = name.removesuffix(f"/{MARKER}")
        return found

    def _create(self, place: str) -> fs.NativeFile:
        at = self._at(place)
        if isinstance(self._files, fs.LocalFileSystem):
            self._files.create_dir(at.rpartition("/")[0], recursive=True)
        return self._files.open_output_stream(at)

    def _at(self, place: str) -> str:
        return f"{self._root}/{place}".rstrip("/")

    def _place(self, path: str) -> str:
        return path.removeprefix(self._root).strip("/")


def runs(bucket: Bucket) -> list[Found]:
    """Every run that a bucket has, oldest first; what is no run is passed over."""
    found = []
    for experiment in bucket.folders():
        for place in bucket.folders(experiment):
            with suppress(ValueError, TypeError, AttributeError):
                if (raw := bucket.read(f"{place}/run.json")) is not None:
                    found.append(Found(place, record_of(raw)))
    return sorted(found, key=lambda one: one.record.run)


def find(bucket: Bucket, named: str) -> Found:
    """The run that ``named`` means: ``EXPERIMENT/RUN``, an id or the beginning of one, or ``last``. Raises
    ``UserError``."""
    known = runs(bucket)
    if not known:
        raise UserError(f"{bucket.url}: no runs here")
    if named == "last":
        return known[-1]
    matches = [one for one in known if named in (one.name, one.record.run)] or [
        one for one in known if one.record.run.startswith(named) or one.name.startswith(named)
    ]
    if len(matches) == 1:
        return matches[0]
    names = ", ".join(one.name for one in (matches or known)[-5:])
    raise UserError(f"run {named!r}: matches {len(matches)} runs of {bucket.url}; allowed: `last`, or one of {names}")


def pull(bucket: Bucket, found: Found, runs_dir: Path, *, checkpoints: bool) -> Path:
    """Copy a run here, whole or not at all, with its ``checkpoints`` or without; returns its folder. Raises
    ``UserError`` where a run of this id is here already, and where names of the bucket would lead elsewhere."""
    if not all(map(_NAME.fullmatch, found.place.split("/"))):
        raise UserError(f"{bucket.url}/{found.place}: is no name of a run")
    target = runs_dir.absolute() / found.place
    if target.exists():
        raise UserError(f"{target}: is there already; name another folder with --runs-dir")
    whole = bucket.checkpoints(found.place) if checkpoints else {}
    kept = tuple(f"{place}/" for place in whole.values())
    partial = target.with_name(f".{target.name}.partial")
    try:
        for place in bucket.files(found.place):
            name = place.removeprefix(f"{found.place}/")
            if ".." in name.split("/"):
                raise UserError(f"{bucket.url}/{place}: is no name of a file of a run")
            if not name.startswith("checkpoints/") or place.startswith(kept):
                bucket.fetch(place, partial / name)
        partial.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def checkpoint_place(run: str, step: int) -> str:
    return f"{run}/checkpoints/{step_folder(Path(), step).name}"


def _opened(url: str) -> tuple[fs.FileSystem, str]:
    if url.startswith("file://"):
        return fs.LocalFileSystem(), url.removeprefix("file://")
    if (azure := _AZURE.fullmatch(url)) is not None:
        return fs.AzureFileSystem(azure[1]), azure[2]
    if url.startswith("s3://"):
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        asked = {"allow_delayed_open": "true"}  # a small file is one request, not the three of several parts
        if endpoint:
            scheme, _, host = endpoint.rpartition("://")
            asked |= {"endpoint_override": host.rstrip("/"), "scheme": scheme or "https"}
        if region := os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"):
            asked["region"] = region
        elif endpoint:
            asked["region"] = "us-east-1"  # without it, Amazon would be asked where the bucket is
        url += f"?{urlencode(asked)}"
    files, root = fs.FileSystem.from_uri(url)
    return files, root


class _errors:
    """Whatever a cloud's library raises is a ``BucketError``; a missing file stays one."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, FileNotFoundError):
            return
        if isinstance(error, OSError | ValueError | pa.ArrowException):
            raise BucketError(f"{self._url}: {_said(error)}") from None


def _said(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:500] if str(error).strip() else type(error).__name__


def whole_files(folder: Path, *, limit: int) -> Iterator[Path]:
    """Files right below a folder, none above ``limit`` bytes."""
    for path in sorted(folder.iterdir()):
        with suppress(FileNotFoundError):
            if path.is_file() and not path.name.startswith(".") and path.stat().st_size <= limit:
                yield path
