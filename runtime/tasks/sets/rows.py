"""What a row of a published set must have, and how rows are fetched from the hub. Files of rows: ``files.py``."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.errors import MachineError, UserError
from runtime.oci.reference import parse
from runtime.tasks.sets.files import Row
from runtime.tasks.sets.types import BadRow


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
            allow_patterns=[f"**/{split}*.parquet", f"{split}*.parquet", f"**/{split}/*.parquet", f"{split}.json*"],
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
    if value is not None and not isinstance(value, str):
        raise BadRow(f"column {column} is no text but {type(value).__name__}")
    if value is None or not value.strip():
        raise BadRow(f"column {column} is {'missing' if column not in row else 'empty'}")
    return value


def optional(row: Row, column: str) -> str:
    value = row.get(column)
    return value if isinstance(value, str) else ""


def commit(row: Row, column: str) -> str:
    """A commit's whole name. Raises ``BadRow``."""
    value = text(row, column).strip().lower()
    if not re.fullmatch(r"[0-9a-f]{40}", value):
        raise BadRow(f"column {column} is no commit of 40 hexadecimal digits: {value[:60]!r}")
    return value


def image(row: Row, *columns: str) -> str:
    """The name of an image in the first of these columns that says one; empty where none does. Raises ``BadRow``."""
    said = [(column, optional(row, column)) for column in columns if optional(row, column).strip()]
    if not said:
        return ""
    column, found = said[0]
    try:
        parse(found)
    except ValueError as error:
        raise BadRow(f"column {column}: {error}") from error
    return found.strip()


def names(row: Row, column: str) -> tuple[str, ...]:
    """A list of tests, also as text: JSON as SWE-bench keeps it, or as Python writes it, which is what becomes of lists
    in tables of text. Nothing (null) is a list of none. Raises ``BadRow``."""
    if column not in row:
        raise BadRow(f"column {column} is missing")
    value = row[column]
    if isinstance(value, str):
        value = value_of(value, f"column {column} is no list of tests")
    if value is None:
        return ()
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        raise BadRow(f"column {column} is no list of tests")
    return tuple(dict.fromkeys(value))


def table(row: Row, column: str) -> Mapping[str, Any] | None:
    """A column that holds a table, also as text; None where it says nothing. Raises ``BadRow``."""
    value = row.get(column)
    if isinstance(value, str):
        value = value_of(value, f"column {column} is no table")
    if not isinstance(value, Mapping | None):
        raise BadRow(f"column {column} is no table")
    return value


def value_of(said: str, why: str) -> Any:
    """What a text says as JSON, or else as a literal of Python; None for an empty one. Raises ``BadRow``."""
    if not said.strip():
        return None
    try:
        return json.loads(said)
    except RecursionError as error:
        raise BadRow(f"{why}: {error}") from error
    except ValueError as error:
        try:
            return ast.literal_eval(said.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise BadRow(f"{why}: {error}") from error
