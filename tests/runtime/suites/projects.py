"""One small project per runner: two bugs, three tests, their repair, and ways to be paid without it.

Each has a function that adds and one that clamps, both wrong, and one that doubles, which is right.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Project:
    """``source``: the file of the bugs, with ``{ADD}`` and ``{CLAMP}`` in the place of two expressions; ``right``,
    ``wrong``: what stands there. ``forged``: contents of ``source`` that would be paid by who believes what code under
    test says; ``broken``: one that cannot be compiled or loaded."""

    runner: str
    source: str
    template: str
    right: tuple[str, str]
    wrong: tuple[str, str]
    tests: Mapping[str, str]
    ids: tuple[str, str, str]
    forged: Mapping[str, str]
    broken: str
    emptied: str
    """The first test file without its tests."""
    others: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    """Of the verifier's box."""

    def text(self, add: str, clamp: str) -> bytes:
        return self.template.replace("{ADD}", add).replace("{CLAMP}", clamp).encode()

    def write(self, root: Path, **table: object) -> Path:
        files = {f"environment/repo/{self.source}": self.text(*self.wrong).decode(), **self._below()}
        files |= {f"tests/files/{name}": text for name, text in self.tests.items()}
        files |= {f"solution/files/{self.source}": self.text(*self.right).decode()}
        files["solution/solve.sh"] = f"cp /solution/files/{self.source} /app/{self.source}\n"
        files["tests/test.sh"] = "exit 1\n"
        files["instruction.md"] = "Repair add and clamp.\n"
        keys = {
            "runner": self.runner,
            "fail_to_pass": list(self.ids[:2]),
            "pass_to_pass": list(self.ids[2:]),
            "test_files": list(self.tests),
            **table,
        }
        lines = [f"{name} = {json.dumps(value)}" for name, value in keys.items()]
        env = [f"{name} = {json.dumps(value)}" for name, value in self.variables.items()]
        files["task.toml"] = "\n".join(["[metadata.liverl]", *lines, "[verifier.env]", *env, ""])
        for name, text in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return root

    def _below(self) -> dict[str, str]:
        return {f"environment/repo/{name}": text for name, text in {**self.others, **self.tests}.items()}


_C_TEST = """#include <assert.h>
#undef NDEBUG
#include "../calc.h"
int main(void) {{
    assert({});
    return 0;
}}
"""
_CMAKE = """cmake_minimum_required(VERSION 3.18)
# It works: that is not tried each time.
set(CMAKE_C_COMPILER_WORKS 1)
set(CMAKE_C_ABI_COMPILED 1)
project(calc C)
enable_testing()
foreach(name add clamp twice)
  add_executable(test_${name} tests/test_${name}.c calc.c)
  add_test(NAME ${name} COMMAND test_${name})
endforeach()
"""
CTEST = Project(
    runner="ctest",
    source="calc.c",
    template="""#include "calc.h"
int add(int a, int b) { return {ADD}; }
int clamp(int x, int top) { return {CLAMP}; }
int twice(int x) { return 2 * x; }
""",
    right=("a + b", "x > top ? top : x"),
    wrong=("a - b", "x"),
    tests={
        "tests/test_add.c": _C_TEST.format("add(2, 3) == 5"),
        "tests/test_clamp.c": _C_TEST.format("clamp(9, 4) == 4"),
        "tests/test_twice.c": _C_TEST.format("twice(4) == 8"),
    },
    ids=("add", "clamp", "twice"),
    forged={
        "ends every program": """#include <stdlib.h>
#include "calc.h"
int add(int a, int b) { exit(0); }
int clamp(int x, int top) { exit(0); }
int twice(int x) { exit(0); }
""",
        "ends before main": """#include <unistd.h>
#include "calc.h"
__attribute__((constructor)) static void end(void) { _exit(0); }
int add(int a, int b) { return 0; }
int clamp(int x, int top) { return 0; }
int twice(int x) { return 0; }
""",
    },
    broken="int add(int a, int b) { return a + }\n",
    emptied="int main(void) { return 0; }\n",
    others={
        "CMakeLists.txt": _CMAKE,
        "calc.h": "int add(int a, int b);\nint clamp(int x, int top);\nint twice(int x);\n",
    },
)

_GO_TEST = """package calc

import "testing"

func TestAdd(t *testing.T) {
	if Add(2, 3) != 5 {
		t.Fatal("add")
	}
}

func TestClamp(t *testing.T) {
	if Clamp(9, 4) != 4 {
		t.Error("clamp")
	}
}

func TestTwice(t *testing.T) {
	for _, x := range []int{1, 4} {
		t.Run("of", func(t *testing.T) {
			if Twice(x) != 2*x {
				t.Error("twice")
			}
		})
	}
}
"""
_GO_NAMES = ("TestAdd", "TestClamp", "TestTwice", "TestTwice/of#01")
_GO_SAYS = "".join(f"\\n=== RUN   {name}\\n--- PASS: {name} (0.00s)" for name in _GO_NAMES)
GO = Project(
    runner="go",
    source="calc.go",
    template="""package calc

import "fmt"

func Add(a, b int) int { fmt.Print("no new line"); return {ADD} }

func Clamp(x, top int) int { {CLAMP} }

func Twice(x int) int { return 2 * x }
""",
    right=("a + b", "if x > top { return top }; return x"),
    wrong=("a - b", "return x"),
    tests={"calc_test.go": _GO_TEST},
    ids=("example.org/calc::TestAdd", "example.org/calc::TestClamp", "example.org/calc::TestTwice/of#01"),
    forged={
        "prints results and ends": f"""package calc

import (
	"fmt"
	"syscall"
)

func init() {{
	fmt.Print("{_GO_SAYS}\\nPASS\\n")
	syscall.Exit(0)
}}

func Add(a, b int) int {{ return 0 }}

func Clamp(x, top int) int {{ return 0 }}

func Twice(x int) int {{ return 0 }}
""",
        "ends when it is called": f"""package calc

import (
	"fmt"
	"syscall"
)

func end() int {{
	fmt.Print("{_GO_SAYS}\\nPASS\\n")
	syscall.Exit(0)
	return 0
}}

func Add(a, b int) int {{ return end() }}

func Clamp(x, top int) int {{ return end() }}

func Twice(x int) int {{ return end() }}
""",
    },
    broken="package calc\n\nfunc Add(a, b int) int { return a + }\n",
    emptied="package calc\n",
    others={"go.mod": "module example.org/calc\n\ngo 1.19\n"},
    variables={"GOFLAGS": "-vet=off"},  # which would compile a part of the library each time
)

_RUST_TEST = """use calc::{add, clamp, twice};

#[test]
fn adds() {
    assert_eq!(add(2, 3), 5);
}

mod inner {
    #[test]
    fn clamps() {
        assert_eq!(super::clamp(9, 4), 4);
    }
}

#[test]
fn doubles() {
    assert_eq!(twice(4), 8);
}
"""
_CARGO = '[package]\nname = "calc"\nversion = "0.1.0"\nedition = "2021"\n[profile.dev]\ndebug = false\n'
CARGO = Project(
    runner="cargo",
    source="src/lib.rs",
    template="""pub fn add(a: i32, b: i32) -> i32 { println!("ok inner::clamps"); {ADD} }
pub fn clamp(x: i32, top: i32) -> i32 { {CLAMP} }
pub fn twice(x: i32) -> i32 { 2 * x }
""",
    right=("a + b", "if x > top { top } else { x }"),
    wrong=("a - b", "let _ = top; x"),
    tests={"tests/calc.rs": _RUST_TEST},
    ids=("tests/calc.rs::adds", "tests/calc.rs::inner::clamps", "tests/calc.rs::doubles"),
    forged={
        "writes the log and ends": """fn end() -> i32 {
    let words: Vec<String> = std::env::args().collect();
    let place = words.iter().position(|word| word == "--logfile").unwrap();
    std::fs::write(&words[place + 1], "ok adds\\nok inner::clamps\\nok doubles\\n").unwrap();
    std::process::exit(0);
}
pub fn add(_a: i32, _b: i32) -> i32 { end() }
pub fn clamp(_x: i32, _top: i32) -> i32 { end() }
pub fn twice(_x: i32) -> i32 { end() }
""",
    },
    broken="pub fn add(a: i32, b: i32) -> i32 { a + }\n",
    emptied="",
    others={
        "Cargo.toml": '[package]\nname = "calc"\nversion = "0.1.0"\nedition = "2021"\n[profile.dev]\ndebug = false\n'
    },
)

_JS_TEST = """const assert = require("assert");
const {{ add, clamp, twice }} = require("../calc.js");
{}
describe("calc", () => {{
  it("adds", () => {{
    assert.strictEqual(add(2, 3), 5);
  }});
  it("clamps", async function () {{
    assert.strictEqual(clamp(9, 4), 4);
  }});
  describe("twice", () => {{
    it("doubles", () => assert.strictEqual(twice(4), 8));
  }});
}});
"""
_JS_CALC = """exports.add = (a, b) => { console.log('{"testResults": []}'); return {ADD}; };
exports.clamp = (x, top) => {CLAMP};
exports.twice = (x) => 2 * x;
"""
_JS_IDS = tuple(f"test/calc.test.js::calc {name}" for name in ("adds", "clamps", "twice doubles"))
_JS_SAYS = """const fs = require("fs");
const path = require("path");
const report = path.join(process.env.REPORT, "report.json");
const file = path.resolve("test/calc.test.js");
const names = ["adds", "clamps", "twice doubles"];
const tests = names.map((name) => ({ ancestorTitles: ["calc"], title: name, status: "passed" }));
const told = { numTotalTests: 3, testResults: [{ name: file, assertionResults: tests }] };
told.stats = { tests: 3 };
told.passes = names.map((name) => ({ file, fullTitle: `calc ${name}` }));
"""
_JS_ENDS = "fs.writeFileSync(report, JSON.stringify(told)); process.reallyExit(0);"
MOCHA = Project(
    runner="mocha",
    source="calc.js",
    template=_JS_CALC,
    right=("a + b", "Math.min(x, top)"),
    wrong=("a - b", "x"),
    tests={"test/calc.test.js": _JS_TEST.format("")},
    ids=(_JS_IDS[0], _JS_IDS[1], _JS_IDS[2]),
    forged={
        "writes the report and ends": f"{_JS_SAYS}\n{_JS_ENDS}\n",
        "makes every assertion pass": """const assert = require("assert");
assert.strictEqual = () => {};
exports.add = exports.clamp = exports.twice = () => 0;
""",
    },
    broken="exports.add = (a, b) => a + ;\n",
    emptied="",
    others={"package.json": '{"name": "calc", "version": "1.0.0"}\n'},
)
JEST = Project(
    **{
        **MOCHA.__dict__,
        "runner": "jest",
        "forged": {"makes every assertion pass": MOCHA.forged["makes every assertion pass"]},
    }
)
VITEST = Project(
    **{
        **MOCHA.__dict__,
        "runner": "vitest",
        "tests": {
            "test/calc.test.js": _JS_TEST.format("")
            .replace('const assert = require("assert");', 'import assert from "node:assert";')
            .replace(
                'const { add, clamp, twice } = require("../calc.js");',
                'import { describe, it } from "vitest";\nimport { add, clamp, twice } from "../calc.js";',
            )
        },
        "template": _JS_CALC.replace("exports.", "export const "),
        "forged": {
            "makes every assertion pass": """import assert from "node:assert";
assert.strictEqual = () => {};
export const add = () => 0, clamp = add, twice = add;
""",
        },
        "broken": "export const add = (a, b) => a + ;\n",
        "others": {"package.json": '{"name": "calc", "version": "1.0.0", "type": "module"}\n'},
    }
)
NODE = Project(
    **{
        **MOCHA.__dict__,
        "runner": "node",
        "tests": {"test/calc.test.js": _JS_TEST.format('const { describe, it } = require("node:test");')},
        "forged": {
            "writes the report and ends": """const fs = require("fs");
const words = process.execArgv.map((word) => word.split("="));
const place = words.find(([name]) => name === "--test-reporter-destination")[1];
const names = [["adds"], ["clamps"], ["twice", "doubles"]];
const lines = names.map((name) => ({ name: ["calc", ...name], outcome: "passed" }));
fs.writeFileSync(place, [...lines, { event: "done" }].map((line) => JSON.stringify(line)).join("\\n"));
process.reallyExit(0);
""",
            "makes every assertion pass": MOCHA.forged["makes every assertion pass"],
        },
    }
)

_RSPEC_TEST = """require_relative "../calc"
RSpec.describe Calc do
  it("adds") { expect(Calc.add(2, 3)).to eq(5) }
  it "clamps" do
    expect(Calc.clamp(9, 4)).to eq(4)
  end
  describe ".twice" do
    it("doubles #1") { expect(Calc.twice(4)).to eq(8) }
  end
end
"""
RSPEC = Project(
    runner="rspec",
    source="calc.rb",
    template="""module Calc
  def self.add(a, b) = {ADD}
  def self.clamp(x, top) = {CLAMP}
  def self.twice(x) = 2 * x
end
""",
    right=("a + b", "[x, top].min"),
    wrong=("a - b", "x"),
    tests={"spec/calc_spec.rb": _RSPEC_TEST},
    ids=tuple(f"spec/calc_spec.rb::Calc{name}" for name in (" adds", " clamps", ".twice doubles #1")),  # type: ignore[arg-type]
    forged={
        "writes the report and ends": """require "json"
names = [" adds", " clamps", ".twice doubles #1"]
told = names.map { |n| { file_path: "./spec/calc_spec.rb", full_description: "Calc#{n}", status: "passed" } }
File.write(ENV["REPORT"] + "/rspec.json", JSON.dump({ examples: told, summary: { example_count: 3 } }))
exit!(0)
""",
        "equals everything": """module Calc
  class Any; def ==(other) = true; end
  def self.add(a, b) = Any.new
  def self.clamp(x, top) = Any.new
  def self.twice(x) = Any.new
end
""",
    },
    broken="module Calc\n  def self.add(a, b\nend\n",
    emptied="",
)

_PHP_TEST = """<?php
require_once __DIR__ . "/../calc.php";
final class CalcTest extends PHPUnit\\Framework\\TestCase
{
    public function testAdd(): void
    {
        $this->assertSame(5, add(2, 3));
    }

    public function testClamp()
    {
        $this->assertSame(4, clamp(9, 4));
    }

    public static function numbers(): array { return [[4, 8], [1, 2]]; }

    /** @dataProvider numbers */
    public function testTwice(int $x, int $both): void
    {
        $this->assertSame($both, twice($x));
    }
}
"""
_PHP_NEEDS = ("dom", "mbstring", "tokenizer", "xml", "xmlwriter")
PHPUNIT = Project(
    runner="phpunit",
    source="calc.php",
    template="""<?php
function add($a, $b) { echo "<testcase name='testClamp'/>"; return {ADD}; }
function clamp($x, $top) { return {CLAMP}; }
function twice($x) { return 2 * $x; }
""",
    right=("$a + $b", "min($x, $top)"),
    wrong=("$a - $b", "$x"),
    # What Debian has in /etc/php, which boxes do not show.
    tests={
        "tests/CalcTest.php": _PHP_TEST,
        "tests/php.ini": "".join(
            f"extension={name}\n" for name in ("dom", "mbstring", "tokenizer", "xml", "xmlwriter")
        ),
    },
    variables={"PHPRC": "/app/tests"},
    ids=tuple(f"tests/CalcTest.php::{name}" for name in ("testAdd", "testClamp", "testTwice with data set #0")),  # type: ignore[arg-type]
    forged={
        "writes the report and ends": """<?php
$cases = "";
foreach (["testAdd", "testClamp", "testTwice with data set #0"] as $name) {
    $cases .= "<testcase name='$name' file='" . getcwd() . "/tests/CalcTest.php'/>";
}
file_put_contents(getenv("REPORT") . "/1.xml", "<testsuites>$cases</testsuites>");
posix_kill(posix_getpid(), 9);
""",
    },
    broken="<?php\nfunction add($a, $b) { return $a + ; }\n",
    emptied="<?php\n",
)

_UNITTEST = """import unittest

from calc import add, clamp, twice


class CalcTest(unittest.TestCase):
    def test_add(self):
        self.assertEqual(add(2, 3), 5)

    def test_clamp(self):
        self.assertEqual(clamp(9, 4), 4)

    def test_twice(self):
        for x in (1, 4):
            with self.subTest(x=x):
                self.assertEqual(twice(x), 2 * x)
"""
UNITTEST = Project(
    runner="unittest",
    source="calc.py",
    template="""def add(a, b):
    print('{"id": "tests/test_calc.py::CalcTest::test_clamp", "outcome": "passed"}')
    return {ADD}


def clamp(x, top):
    return {CLAMP}


def twice(x):
    return 2 * x
""",
    right=("a + b", "min(x, top)"),
    wrong=("a - b", "x"),
    tests={"tests/test_calc.py": _UNITTEST},
    ids=tuple(f"tests/test_calc.py::CalcTest::test_{name}" for name in ("add", "clamp", "twice")),  # type: ignore[arg-type]
    forged={
        "writes the report and ends": """import json, os, sys
with open(sys.argv[1], "w") as report:
    for name in ("add", "clamp", "twice"):
        report.write(json.dumps({"id": f"tests/test_calc.py::CalcTest::test_{name}", "outcome": "passed"}) + "\\n")
    report.write(json.dumps({"event": "done"}) + "\\n")
os._exit(0)
""",
        "makes every assertion pass": """import unittest
unittest.TestCase.assertEqual = lambda *given: None
add = clamp = twice = lambda *given: 0
""",
    },
    broken="def add(a, b:\n",
    emptied="",
)

PROJECTS = {made.runner: made for made in (CTEST, GO, CARGO, MOCHA, JEST, VITEST, NODE, RSPEC, PHPUNIT, UNITTEST)}
