"""Look-alikes as text, of languages whose runners are not installed here too: one test is another one, no other is."""

from __future__ import annotations

import difflib
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.grading.suite_verifier import spoiled
from runtime.suites.base import Suite
from runtime.suites.table import SUITES

SPOKEN = [suite for suite in SUITES.values() if suite.language != "python"]

JAVA = """class CalcTest {
    @Test
    void adds() {
        assertEquals(5, Calc.add(2, 3));
    }

    @Test void throwsIt() throws IOException, Oops {
        assertThrows(Oops.class, Calc::wrong);
    }
}
"""
KOTLIN = """class CalcTest {
    @Test fun `adds two numbers`(): Unit {
        assertEquals(5, Calc.add(2, 3))
    }

    @Test
    fun throwsIt() {
        assertFailsWith<Oops> { Calc.wrong() }
    }

    @Test fun short() = assertEquals(5, Calc.add(2, 3))
}
"""
GOOGLE = """#include <gtest/gtest.h>
TEST(Calc, Adds) {
  EXPECT_EQ(add(2, 3), 5);
}
TEST_F(CalcFixture, Throws) {
  EXPECT_THROW(wrong(), Oops);
}
"""
TYPESCRIPT = """import { add } from "../calc";
describe("calc", () => {
  it("adds", async () => {
    expect(await add(2, 3)).toEqual("five");
  });
  test('has no literal', function () {
    check(add);
  });
  it(`is ${made}`, () => expect(1).toBe(1));
  it.each([1, 2])("each %i", (x) => expect(x).toBe(3));
});
"""
RUST = """#[test]
fn adds() -> () {
    assert_eq!(add(2, 3), 5);
}

#[test]
fn holds() {
    assert!(add(2, 3) > 4);
}
"""
GO = """package calc

func TestAdd(t *testing.T) {
\tassert.Equal(t, "five", Add(2, 3))
}

func TestHolds(t *testing.T) {
\tcheck(t, Add)
}
"""


def changes(runner: str, source: str, *names: str) -> tuple[list[str], tuple[str, ...]]:
    """Lines that are new, and the names that were done."""
    made, done = SUITES[runner].look_alike(source, names, random.Random(0))
    lines = difflib.unified_diff(source.splitlines(), made.splitlines(), n=0, lineterm="")
    return [line[1:].strip() for line in lines if line.startswith("+") and not line.startswith("+++")], done


@pytest.mark.parametrize(
    ("runner", "source", "name", "start"),
    [
        ("maven", JAVA, "adds", "assertEquals("),
        ("maven", JAVA, "throwsIt", "@Test void throwsIt() throws IOException, Oops { "),
        ("gradle", KOTLIN, "adds two numbers", "assertEquals("),
        ("gradle", KOTLIN, "throwsIt", "fun throwsIt() { "),
        ("ctest", GOOGLE, "Calc.Adds", "EXPECT_EQ(add(2, 3), "),
        ("ctest", GOOGLE, "CalcFixture.Throws", "TEST_F(CalcFixture, Throws) { struct "),
        ("vitest", TYPESCRIPT, "calc adds", 'expect(await add(2, 3)).toEqual("five'),
        ("cargo", RUST, "holds", "assert!(!(add(2, 3) > 4));"),
        ("go", GO, "TestAdd", 'assert.Equal(t, "five'),
        ("go", GO, "TestHolds", "func TestHolds(t *testing.T) { "),
    ],
)
def test_one_test_is_another_one(runner: str, source: str, name: str, start: str) -> None:
    new, done = changes(runner, source, name)
    assert done == (name,) and len(new) == 1 and new[0].startswith(start) and new[0] not in source


@pytest.mark.parametrize(
    ("runner", "true", "other"),
    [
        ("jest", "assert.deepStrictEqual(f([3, 1]), [1, 3]);", r"assert.deepStrictEqual(f([3, 1]), [\d+, 3]);"),
        ("jest", "expect(f(1)).toEqual(made());", r"expect(f(1)).toEqual([made()]);"),
        ("mocha", "assert.ok(f(4, 'a)'));", r"assert.ok(!(f(4, 'a)')));"),
        ("cargo", "assert_eq!(f(2), vec![1, 2]);", r"assert_eq!(f(2), vec![\d+, 2]);"),
        ("cargo", "assert_eq!(f(2), read().unwrap());", r"assert_eq!((f(2)) == (read().unwrap()), false);"),
        ("maven", 'assertTrue("why", f(4));', r'assertTrue("why", !(f(4)));'),
        ("maven", "assertEquals(List.of(1, 2), f());", r"assertEquals(List.of(\d+, 2), f());"),
        ("go", "if got := f(2); got != want {\n\t\tt.Fatal(got)", r"if got := f(2); !(got != want) {"),
        ("ctest", "if (strcmp(a, b)) { return 1; }", r"if (!(strcmp(a, b))) { return 1; }"),
        ("rspec", "expect(f).to eq(true)", r"expect(f).to eq(false)"),
        ("phpunit", "$this->assertSame([1], f());", r"$this->assertSame([\d+], f());"),
    ],
)
def test_an_assertion_says_the_opposite_and_stays_the_same_function(runner: str, true: str, other: str) -> None:
    around = {
        "jest": 'it("a", () => {\n  @\n});',
        "mocha": 'it("a", () => {\n  @\n});',
        "cargo": "fn a() {\n    @\n}",
        "maven": "void a() {\n    @\n}",
        "go": "func a(t *testing.T) {\n\t@\n\t}\n}",
        "ctest": "int main(void) {\n    @\n}",
        "rspec": 'it "a" do\n  @\nend',
        "phpunit": "function a() {\n    @\n}",
    }[runner]
    new, done = changes(runner, around.replace("@", true), "a")
    pattern = re.escape(other).replace(re.escape(r"\d+"), r"\d+")
    assert done == ("a",) and len(new) == 1 and re.fullmatch(pattern, new[0]), new
    followed, done = SUITES[runner].look_alike(around.replace("@", true), ["a"], random.Random(0), follows=["a"])
    assert done == ("a",) and true.partition("\n")[0] in followed


def test_a_failure_follows_a_test_of_javascript_without_a_literal() -> None:
    new, done = changes("jest", TYPESCRIPT, "calc has no literal")
    assert done == ("calc has no literal",)
    word = new[0].partition("(")[0]
    assert new[0] == f"{word}(test)('has no literal', function () {{" and new[-1].startswith(f"function {word}(it) ")


@pytest.mark.parametrize(
    ("runner", "source", "name"),
    [
        ("cargo", RUST, "adds"),  # has a type of its own
        ("vitest", TYPESCRIPT, "calc is made"),
        ("vitest", TYPESCRIPT, "calc each 1"),
        ("go", GO, "TestAdd/of"),
        ("maven", JAVA + JAVA, "adds"),
        ("gradle", KOTLIN, "short"),
    ],
)
def test_what_is_not_found_exactly_once_stays_as_it_is(runner: str, source: str, name: str) -> None:
    assert changes(runner, source, name) == ([], ())


def test_the_file_of_a_test_is_found_by_its_id() -> None:
    def found(runner: str, test_id: str, *sources: str) -> str | None:
        place = SUITES[runner].file_of(test_id, sources)
        return place[0] if place is not None else None

    assert found("go", "example.org/a/b::TestX", "b/x_test.go", "x_test.go", "c/x_test.go") == "b/x_test.go"
    assert found("go", "example.org/a::TestX", "x_test.go", "y_test.go") is None
    assert found("maven", "org.a.ATest$Inner::x", "core/src/test/java/org/a/ATest.java", "x/org/b/ATest.java") == (
        "core/src/test/java/org/a/ATest.java"
    )
    assert found("ctest", "test_add", "tests/add_test.cc", "tests/address.cc") == "tests/add_test.cc"
    assert found("jest", "a.test.js::b", "b.test.js") is None


@given(st.sampled_from(SPOKEN), st.text(max_size=200), st.lists(st.text(max_size=20), max_size=3), st.integers(0, 9))
def test_no_text_makes_it_fail(suite: Suite, source: str, names: list[str], seed: int) -> None:
    made, done = suite.look_alike(source, names, random.Random(seed))
    assert set(done) <= set(names) and (done or made == source)


def test_of_tests_in_several_files_each_is_drawn_alone() -> None:
    tests = {"a.test.js": TYPESCRIPT.encode(), "b.test.js": TYPESCRIPT.encode(), "c.test.js": b"\xff"}
    ids = [f"{file}::calc {name}" for file in tests for name in ("adds", "has no literal")]
    canary = spoiled(SUITES["jest"], tests, ids, random.Random(1))
    assert set(canary.ids) == set(ids[:4]) and set(canary.files) == {"a.test.js", "b.test.js"}
    sizes = {len(spoiled(SUITES["jest"], tests, ids, random.Random(seed), share=0.5).ids) for seed in range(30)}
    assert len(sizes) > 2
