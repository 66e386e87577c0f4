"""The table of faults says what is tested."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
ROWS = re.findall(r"^\| (\d+) \|[^|]*\|(.*)\|$", (TESTS / "faults" / "README.md").read_text(), flags=re.M)


def test_every_fault_has_a_row_and_every_test_exists() -> None:
    assert [int(number) for number, _ in ROWS] == list(range(1, 33))
    for number, cell in ROWS:
        named = re.findall(r"`([\w/.]+)::(\w+)`", cell)
        assert named or cell.strip().startswith("not made: "), number
        for file, test in named:
            assert f"def {test}(" in (TESTS / file).read_text(), f"{number}: {file}::{test}"


def test_every_test_with_a_number_stands_in_its_row() -> None:
    cells = dict(ROWS)
    found = re.findall(r"^def (test_(\d+)_\w+)\(", (TESTS / "faults" / "test_faults.py").read_text(), flags=re.M)
    assert found and all(f"::{test}`" in cells[number] for test, number in found)
