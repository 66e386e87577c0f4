"""Files of rows: parquet, Arrow, JSON, JSON lines and CSV, each alone or in a folder, as sets are published and as
people keep them. Does not know what a row must have.

What a file is, its name says, but for JSON: the usual way of writing a data set to ``x.json`` writes lines.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final

from runtime.errors import UserError
from runtime.tasks.sets.types import BadRow

Row = Mapping[str, Any]
Placed = tuple[str, Row | BadRow]

_ABOUT = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""What package datasets keeps beside rows."""
_POINTER = b"version https://git-lfs.github.com/"
_AT_ONCE = 256
_LONGEST = 64 << 20
"""Characters of one field of CSV: a patch may be long, and Python's own bound is 128 Ki."""


def read_rows(path: Path) -> Iterator[Placed]:
    """(``file:line`` or ``file[index]``, row) of everything there; what is no row comes as ``BadRow``. Raises
    ``UserError`` for what holds no rows at all."""
    if path.is_file():
        files = [path]
    else:
        found = sorted(one for one in path.glob("**/*") if _kind(one) and one.name not in _ABOUT)
        files = [one for one in found if one.is_file()]
    if not files:
        raise UserError(f"{path}: no rows there; give a file ({_NAMES}) or a folder of them")
    for file in files:
        try:
            with file.open("rb") as opened:
                if opened.read(len(_POINTER)) == _POINTER:
                    raise ValueError("it is a pointer of Git LFS; fetch the file itself (git lfs pull)")
            if not (kind := _kind(file)):
                raise ValueError("its name says no form that is read")
            yield from READERS[kind](file)
        except (OSError, EOFError, ValueError, RecursionError, NotImplementedError) as error:
            raise UserError(f"{file}: no rows can be read: {error}; give a file ({_NAMES})") from error


def _kind(file: Path) -> str:
    name = file.name.lower().removesuffix(".gz")
    packed = name != file.name.lower()
    ending = name[name.rfind(".") :] if "." in name else ""
    return ending if ending in READERS and not (packed and ending in _NEVER_PACKED) else ""


def _opened(file: Path) -> IO[bytes]:
    return gzip.open(file, "rb") if file.name.lower().endswith(".gz") else file.open("rb")  # type: ignore[return-value]


def _row(found: Any) -> Row | BadRow:
    return found if isinstance(found, Mapping) else BadRow(f"a row is a table, not {type(found).__name__}")


def _lines(file: Path) -> Iterator[Placed]:
    with _opened(file) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                yield f"{file}:{number}", _row(json.loads(line))
            except (ValueError, RecursionError) as error:
                yield f"{file}:{number}", BadRow(f"no JSON: {error}")


def _json(file: Path) -> Iterator[Placed]:
    with _opened(file) as stream:
        content = stream.read()
    try:
        found = json.loads(content)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise
        yield from _lines(file)  # more than one value: lines, whatever the name says
        return
    rows = _of_json(found)
    yield from ((f"{file}[{index}]", _row(row)) for index, row in enumerate(rows))


def _of_json(found: Any) -> list[Any]:
    """Rows in a list, by their instances, or as the hub's own server gives them."""
    if isinstance(found, dict) and isinstance(found.get("rows"), list):
        cut = [one for one in found["rows"] if isinstance(one, dict) and one.get("truncated_cells")]
        if cut:
            raise ValueError("the server that gave these rows has cut long columns of them; fetch the set's files")
        return [one.get("row") if isinstance(one, dict) else one for one in found["rows"]]
    if isinstance(found, dict) and all(isinstance(one, dict) for one in found.values()):
        return list(found.values())
    if isinstance(found, dict) and ("instance_id" in found or "commit_hash" in found):
        raise ValueError("columns with a list each, or one row alone; write a list of rows")
    if not isinstance(found, list):
        raise ValueError("neither a list nor a table of rows")
    return found


def _parquet(file: Path) -> Iterator[Placed]:
    """Some rows at a time: sets of 50,000 rows are asked for a few, and are gigabytes as Python's objects."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as table:
        yield from _numbered(file, (row for batch in table.iter_batches(_AT_ONCE) for row in batch.to_pylist()))


def _arrow(file: Path) -> Iterator[Placed]:
    """What ``save_to_disk`` of package datasets writes, which is a stream, and Arrow's files."""
    import pyarrow as pa

    with file.open("rb") as stream:
        if stream.read(6) == b"ARROW1":
            whole = pa.ipc.open_file(file)
            batches = (whole.get_batch(number) for number in range(whole.num_record_batches))
        else:
            stream.seek(0)
            batches = iter(pa.ipc.open_stream(stream))
        yield from _numbered(file, (row for batch in batches for row in batch.to_pylist()))


def _numbered(file: Path, rows: Iterator[Any]) -> Iterator[Placed]:
    yield from ((f"{file}[{index}]", _row(row)) for index, row in enumerate(rows))


def _csv(file: Path) -> Iterator[Placed]:
    """Every value is text. A row that lacks columns or has more of them is none: a quote went astray."""
    before = csv.field_size_limit(_LONGEST)
    try:
        with _opened(file) as stream, io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
            rows = csv.reader(text, strict=True, delimiter="\t" if ".tsv" in file.name.lower() else ",")
            columns, last = next(rows, []), rows.line_num
            if len(columns) < 2 or len(set(columns)) < len(columns):
                raise ValueError("its first line does not name the columns, each once")
            for values in rows:
                place, last = f"{file}:{last + 1}", rows.line_num
                if values and len(values) != len(columns):
                    yield place, BadRow(f"{len(values)} values for {len(columns)} columns")
                elif values:
                    yield place, dict(zip(columns, values, strict=True))
    except csv.Error as error:
        raise ValueError(f"no CSV at line {rows.line_num}: {error}") from error
    finally:
        csv.field_size_limit(before)


READERS: Final[Mapping[str, Callable[[Path], Iterator[Placed]]]] = {
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".json": _json,
    ".jsonl": _lines,
    ".ndjson": _lines,
    ".csv": _csv,
    ".tsv": _csv,
}
_NEVER_PACKED = (".parquet", ".arrow")
_NAMES = ", ".join(READERS) + "; those of text also with .gz"
