"""Structured repairs on single lines: what each edits, what it leaves alone, and that pairs undo each other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.laptop.tools import repairs

CASES = [
    ("flip", "x = a + b  # plus", "x = a - b  # plus"),
    ("flip", "x = -b * 3", "x = -b // 3"),
    ("flip", "total //= parts", "total *= parts"),
    ("flip", "x = 'a + b'", None),
    ("flip", "return -x", None),
    ("flip", "def f(a=1 + 2):", None),
    ("widen", "if a < 3:", "if a <= 3:"),
    ("widen", "if a == 3:", None),
    ("reverse", "return min(a, b)", "return max(a, b)"),
    ("reverse", "if a >= b and c:", "if a <= b and c:"),
    ("negate", "if not ready:  # unless", "if ready:  # unless"),
    ("negate", "while a < b:", "while not a < b:"),
    ("negate", "return a == b", "return not a == b"),
    ("negate", "return a + b", None),
    ("negate", "return", None),
    ("swap", "x = f(a, g(b, c), d)", "x = f(g(b, c), a, d)"),
    ("swap", "x = f(a)", None),
    ("swap", "x = f(key=a, other=b)", None),
    ("swap", "def f(a, b):", None),
    ("raise", "x = 'a9' + 9", "x = 'a9' + 10"),
    ("raise", "x = 1.5", None),
    ("lower", "for i in range(10):", "for i in range(9):"),
    ("lower", "x = 0", None),
]


@pytest.mark.parametrize(("tool", "line", "want"), CASES)
def test_one_line(tool: str, line: str, want: str | None) -> None:
    assert repairs.apply(tool, [line], 0) == want


def test_rename_takes_the_unused_parameter() -> None:
    source = ["def area(width, height):", "    size = width * width  # times", "    return size"]
    assert repairs.apply("rename", source, 1) == "    size = width * height  # times"
    assert repairs.apply("rename", source, 0) is None
    assert repairs.apply("rename", [source[0], "    return width * height"], 1) is None


@given(st.text(max_size=60))
def test_lexing_loses_nothing(line: str) -> None:
    line = line.replace("\n", " ")
    if all(character.isprintable() for character in line):
        assert repairs.join(repairs.lex(line)) == line


@given(
    st.sampled_from(["a", "b1", "f(x)", "data[0]"]),
    st.sampled_from(["+", "-", "*", "//", "<", "<=", ">", ">=", "and", "or"]),
    st.sampled_from(["c", "7", "g(y, z)", "'text'"]),
    st.sampled_from(["flip", "widen", "reverse", "negate", "swap"]),
)
def test_repairs_undo_themselves(left: str, operator: str, right: str, tool: str) -> None:
    line = f"    if {left} {operator} {right}:  # note"
    edited = repairs.apply(tool, [line], 0)
    if edited is not None:
        assert repairs.apply(tool, [edited], 0) == line


@given(st.sampled_from(sorted(repairs.REPAIRS)), st.text(max_size=80).map(lambda text: text.replace("\n", " ")))
def test_no_line_breaks_a_repair(tool: str, line: str) -> None:
    edited = repairs.apply(tool, [line], 0)
    assert edited is None or edited != line
