"""What tests compare with is known by what they name; what people read is open only where nothing can run it."""

from pathlib import Path, PurePosixPath

import pytest

from runtime.grading.named import is_named, readable_prose, words_of
from runtime.sandboxes.entries import Link

TESTS = [
    b"open('/app/golden/page.html')\n",
    b"FOLDER = ROOT / 'expected'\n(FOLDER / 'table.json').read_text()\n",
    b"glob('samples/*.txt')\n'templates'\n'shop'\n'NEWS'\n",
]
TOUCHED = [PurePosixPath("shop/calc.py"), PurePosixPath("templates/page.html")]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name in (
        *("golden/page.html", "golden/other.html", "expected/table.json", "samples/a/1.txt", "templates/page.html"),
        *("templates/more.html", "shop/calc.py", "shop/rates.json", "NEWS", "data/table.json"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "touched", "found"),
    [
        ("golden/page.html", TOUCHED, True),
        ("golden/other.html", TOUCHED, True),  # by its folder
        ("golden/new.html", TOUCHED, False),  # not the repository's
        ("expected/table.json", TOUCHED, True),
        ("samples/a/1.txt", TOUCHED, True),
        ("NEWS", TOUCHED, True),
        ("templates/page.html", TOUCHED, False),  # the known solution changes it
        ("templates/more.html", TOUCHED, False),  # nor is its folder left alone
        ("shop/rates.json", TOUCHED, False),  # beside modules
        ("shop/calc.py", [PurePosixPath("x.py")], False),
        ("data/table.json", TOUCHED, False),
        ("expected/table.json", [], True),  # no solution is known
        ("samples/a/1.txt", [], False),
    ],
)
def test_what_tests_compare_with(repository: Path, name: str, touched: list[PurePosixPath], found: bool) -> None:
    assert is_named(PurePosixPath(name), words_of(TESTS), repository, touched) is found


def test_prose_is_open_where_nothing_runs_it() -> None:
    work = {"/app/README.md": b"x", "/app/calc.py": b"y"}
    assert readable_prose(work, TESTS) == {"/app/README.md": b"x"}
    assert readable_prose(work, [*TESTS, b"import doctest\n"]) == {}
    assert readable_prose(work, [b"re.compile('x')\n"]) != {}
    assert readable_prose(work, [b"exec(text)\n"]) == {}
    assert readable_prose(work | {"/app/json.py": Link("README.md")}, TESTS) == {}
    assert "/app/README.md" in readable_prose(work | {"/app/CLAUDE.md": Link("README.md")}, TESTS)
