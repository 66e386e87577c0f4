"""Rows as sets are published: parquet, JSON or JSON lines, from a file, a folder of such files, or the hub."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from runtime.errors import MachineError, UserError
from runtime.tasks.sets.types import BadRow

Row = Mapping[str, Any]
_KINDS = (".parquet", ".json", ".jsonl")
_AT_ONCE = 256


def read_rows(path: Path) -> Iterator[tuple[str, Row | BadRow]]:
    """(``file:line`` or ``file[index]``, row) of everything there; a line that is no row comes as ``BadRow``. Raises
    ``UserError`` for what holds no rows at all."""
    found = (one for kind in _KINDS for one in path.glob(f"**/*{kind}"))
    files = [path] if path.is_file() else sorted(one for one in found if one.is_file())
    if not files:
        raise UserError(f"{path}: no rows there; give a file ({', '.join(_KINDS)}) or a folder of them")
    for file in files:
        try:
            if file.suffix == ".jsonl":
                yield from _lines(file)
                continue
            for index, row in enumerate(_table(file) if file.suffix == ".parquet" else _list(file)):
                yield f"{file}[{index}]", _row(row)
        except (OSError, ValueError, RecursionError, NotImplementedError) as error:
            raise UserError(f"{file}: no rows can be read: {error}; give a file ({', '.join(_KINDS)})") from error


def _row(found: Any) -> Row | BadRow:
    return found if isinstance(found, Mapping) else BadRow(f"a row is a table, not {type(found).__name__}")


def _lines(file: Path) -> Iterator[tuple[str, Row | BadRow]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                yield f"{file}:{number}", _row(json.loads(line))
            except (ValueError, RecursionError) as error:
                yield f"{file}:{number}", BadRow(f"no JSON: {error}")


def _list(file: Path) -> list[Any]:
    found = json.loads(file.read_bytes())
    if isinstance(found, dict):  # by instance, as some tools write them
        found = list(found.values())
    if not isinstance(found, list):
        raise ValueError("neither a list nor a table of rows")
    return found


def _table(file: Path) -> Iterator[Any]:
    """Some rows at a time: sets of 50,000 rows are asked for a few, and are gigabytes as Python's objects."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as table:
        for batch in table.iter_batches(_AT_ONCE):
            yield from batch.to_pylist()


def from_hub(dataset: str, split: str, revision: str | None, cache: Path) -> tuple[Path, str]:
    """The folder of a data set's rows, fetched from the hub, and ``dataset@revision``. Raises ``MachineError``."""
    import httpx
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        commit = HfApi().dataset_info(dataset, revision=revision).sha
        folder = snapshot_download(
            dataset,
            repo_type="dataset",
            revision=commit,
            allow_patterns=[f"**/{split}*.parquet", f"{split}*.parquet", f"{split}.json*"],
            cache_dir=cache / "hub",
        )
    except HFValidationError as error:
        raise UserError(f"{dataset!r}: no name of a data set of the hub (OWNER/NAME): {error}") from error
    except (OSError, HfHubHTTPError, httpx.HTTPError) as error:
        raise MachineError(
            f"the hub does not give {dataset}: {next(iter(str(error).splitlines()), type(error).__name__)}",
            fix=f"fetch its rows where there is a network (`hf download --repo-type dataset {dataset}`) and give"
            " them with --rows, or `rows` in the spec",
        ) from error
    return Path(folder), f"{dataset}@{commit}"


# What a row must have.


def instance(row: Row) -> str:
    """Its name in its set, as far as it says one."""
    return optional(row, "instance_id") or f"{optional(row, 'repo_name')}@{optional(row, 'commit_hash')}"


def text(row: Row, column: str) -> str:
    """A column that must be there and say something. Raises ``BadRow``."""
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        raise BadRow(f"column {column} is {'missing' if column not in row else 'empty'}")
    return value


def optional(row: Row, column: str) -> str:
    value = row.get(column)
    return value if isinstance(value, str) else ""


def names(row: Row, column: str) -> tuple[str, ...]:
    """A list of tests, also as the JSON text that SWE-bench keeps it in. Raises ``BadRow``."""
    value = row.get(column)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise BadRow(f"column {column} is no list of tests: {error}") from error
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        raise BadRow(f"column {column} is {'missing' if column not in row else 'no list of tests'}")
    return tuple(dict.fromkeys(value))
