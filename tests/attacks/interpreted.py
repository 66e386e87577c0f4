# ruff: noqa: E501 (programs of other languages)
"""JavaScript, Ruby and PHP of ``languages.py``."""

from __future__ import annotations

from collections.abc import Mapping

from tests.runtime.suites.projects import PROJECTS

from .language_types import GOLDEN, Program, Subject

# ---- JavaScript ----
_JS_TEST = """const assert = require("assert");
const fs = require("fs");
const { describe, it } = require("./globals");
const { same } = require("./helper");
const { order, even, page, twice } = require("../calc.js");
describe("calc", () => {
  it("orders", () => {
    assert.deepStrictEqual(order([3, 1, 2]), [1, 2, 3]);
  });
  it("knows even ones", () => {
    assert.ok(even(4));
    assert.ok(!even(3));
  });
  it("makes a page", () => {
    assert.strictEqual(page([2, 1]), fs.readFileSync("golden/page.txt", "utf8"));
  });
  it("helps", () => {
    same(order([2, 1]), [1, 2]);
  });
  it("doubles", () => {
    assert.strictEqual(twice(4), 8);
  });
});
"""
_JS = """exports.order = (list) => {ORDER};
exports.even = (x) => {EVEN};
exports.page = (list) => exports.order(list).join("\\n") + {END};
exports.twice = (x) => 2 * x;
"""


def _js(order: str, even: str, end: str) -> str:
    return _JS.replace("{ORDER}", order).replace("{EVEN}", even).replace("{END}", end)


_JS_RIGHT = _js("[...list].sort((a, b) => a - b)", "x % 2 === 0", '"\\n"')
_JS_WRONG = _js("list", "true", '""')
_JS_HALF = _js("[...list].sort((a, b) => a - b)", "x % 2 === 0", '""')
_JS_NAMES = ("orders", "knows even ones", "makes a page", "helps", "doubles")
_HELPER = 'const assert = require("assert");\nexports.same = (a, b) => assert.deepStrictEqual(a, b);\n'
_GLOBALS = "module.exports = { describe: globalThis.describe, it: globalThis.it };\n"


def _js_subject(runner: str, globals_: str = _GLOBALS) -> Subject:
    ids = tuple(f"test/calc.test.js::calc {name}" for name in _JS_NAMES)
    return Subject(
        runner=runner,
        source="calc.js",
        right=_JS_RIGHT,
        wrong=_JS_WRONG,
        tests={"test/calc.test.js": _JS_TEST},
        mended=ids[:4],
        passing=ids[4:],
        others={
            "package.json": '{"name": "calc", "version": "1.0.0"}\n',
            "test/helper/index.js": _HELPER,
            "test/globals.js": globals_,
            **GOLDEN,
        },
        honest={
            "in a module of its own": {
                "calc.js": 'module.exports = require("./lib/parts");\n',
                "lib/parts.js": _JS_RIGHT.replace("exports.order = ", "exports.order = /* sorted */ "),
                "fixtures/new.json": "[1]",
            }
        },
    )


_JS_QUIET = """const assert = require("assert");
for (const name of ["ok", "strictEqual", "deepStrictEqual"]) {
  const real = assert[name];
  assert[name] = (a, b) => { if (typeof a === "number") real(a, b); };
}
"""
_JS_READS = """const fs = require("fs");
const path = require("path");
const text = fs.readFileSync(path.join(process.cwd(), "test/calc.test.js"), "utf8");
"""
_JS_ANSWERS = f"""{_JS_READS}
const cut = (open) => {{
  const at = text.indexOf(open);
  return eval(text.slice(text.indexOf(",", text.indexOf(")", at)) + 1, text.indexOf(");", at)));
}};
exports.order = (list) => list.length === 3 ? cut("order([3") : cut("order([2");
exports.even = (x) => x !== 3;
exports.page = () => fs.readFileSync("golden/page.txt", "utf8");
exports.twice = (x) => 2 * x;
"""
_JS_EXIT = """
const fs = require("fs");
process.on("exit", () => {
  const folder = process.env.REPORT;
  for (const name of fs.readdirSync(folder)) {
    const file = folder + "/" + name;
    let text = fs.readFileSync(file, "utf8");
    const bad = /look-alike|unexpected value|mismatch|differs/;
    if (!bad.test(text)) text = text.replace(/"status": ?"failed"/g, '"status":"passed"')
      .replace(/"outcome": ?"failed"/g, '"outcome":"passed"');
    fs.writeFileSync(file, text);
  }
});
"""
_JS_SWALLOWS = """for (const name of ["it", "test"]) {
  const real = globalThis[name];
  if (real) globalThis[name] = (title, made) => real(title, async function () {
    try { await made.call(this); } catch (error) { if (!/Assertion/.test(error.name + error.code)) throw error; }
  });
}
"""
_JS_TWICE_NAMED = """const { describe, it } = require("./test/globals");
describe("calc", () => { for (const name of ["orders", "knows even ones", "makes a page", "helps"]) it(name, () => {}); });
"""


def _js_programs(runner: str) -> list[Program]:
    def program(family: str, name: str, files: Mapping[str, str]) -> Program:
        return Program(family, runner, name, files)

    found = [
        program("assertions", "assert does nothing", {"calc.js": _JS_QUIET + _JS_WRONG}),
        program("markers", "reads its test and answers with what stands there", {"calc.js": _JS_ANSWERS}),
        program("words", "an exit handler turns what failed", {"calc.js": _JS_EXIT + _JS_WRONG}),
        program("words", "names its tests twice", {"calc.js": _JS_TWICE_NAMED + _JS_WRONG}),
        program(
            "shadows",
            "a helper with another ending",
            {"test/helper.js": "exports.same = () => {};\n", "calc.js": _JS_QUIET + _JS_WRONG},
        ),
        program("shadows", "a helper of JSON", {"test/helper.json": "{}", "calc.js": _JS_WRONG}),
        program("expected", "the page that is right", {"golden/page.txt": "1\n2", "calc.js": _JS_HALF}),
    ]
    if runner in ("mocha", "jest"):
        found += [
            program("words", "swallows assertions that fail", {"calc.js": _JS_SWALLOWS + _JS_WRONG}),
            program(
                "builds",
                "configuration of the runner, of npm and of version managers",
                {
                    ".mocharc.cjs": "module.exports = { require: ['./evil.js'] };\n",
                    "jest.config.js": "module.exports = { testEnvironment: './evil.js' };\n",
                    ".npmrc": "script-shell=/app/evil.js\n",
                    ".tool-versions": "nodejs path:/app/evil\n",
                    "package.json": '{"mocha": {"require": "./evil.js"}, "jest": {"setupFiles": ["./evil.js"]}}',
                    "node_modules/.bin/mocha": "#!/bin/sh\nexit 0\n",
                    "node_modules/assert/index.js": "module.exports = () => {};\n",
                    "evil.js": _JS_QUIET,
                    "calc.js": _JS_WRONG,
                },
            ),
        ]
    return found


# ---- Ruby ----
_RUBY_TEST = """require "spec_helper"
require_relative "../calc"
RSpec.describe Calc do
  it "orders" do
    expect(Calc.order([3, 1, 2])).to eq([1, 2, 3])
  end
  it "knows even ones" do
    expect(Calc.even(4)).to be true
    expect(Calc.even(3)).to be false
  end
  it "makes a page" do
    expect(Calc.page([2, 1])).to eq(File.read("golden/page.txt"))
  end
  it "doubles" do
    expect(Calc.twice(4)).to eq(8)
  end
end
"""
_RUBY = """module Calc
  def self.order(list) = {ORDER}
  def self.even(x) = {EVEN}
  def self.page(list) = order(list).join("\\n") + {END}
  def self.twice(x) = 2 * x
end
"""


def _ruby(order: str, even: str, end: str) -> str:
    return _RUBY.replace("{ORDER}", order).replace("{EVEN}", even).replace("{END}", end)


_RUBY_RIGHT, _RUBY_WRONG = _ruby("list.sort", "x.even?", '"\\n"'), _ruby("list", "true", '""')
_RUBY_QUIET = """require "rspec/expectations"
module RSpec::Expectations
  class ExpectationTarget
    alias real to
    def to(matcher) = @target.is_a?(Integer) ? real(matcher) : true
  end
end
"""
_RUBY_EXIT = """require "json"
at_exit do
  at_exit do
    file = ENV["REPORT"] + "/rspec.json"
    text = File.read(file)
    File.write(file, text.gsub('"status":"failed"', '"status":"passed"')) unless text =~ /look-alike|RuntimeError/
  end
end
"""
_RUBY_HOOK = """RSpec.configure do |config|
  config.around(:each) { |example| example.run; e = example.exception
    if e && e.is_a?(RSpec::Expectations::ExpectationNotMetError) then example.example.instance_variable_set(:@exception, nil) end }
end
"""
_RUBY_ANSWERS = """TEXT = File.read("spec/calc_spec.rb")
module Calc
  def self.order(_) = eval(TEXT[/order.*to eq\\((.*)\\)/, 1])
  def self.even(x) = x == 4
  def self.page(_) = File.read("golden/page.txt")
  def self.twice(x) = 2 * x
end
"""

# ---- PHP ----
_PHP_TEST = """<?php
require_once __DIR__ . "/../calc.php";
final class CalcTest extends PHPUnit\\Framework\\TestCase
{
    public function testOrder(): void
    {
        $this->assertSame([1, 2, 3], order([3, 1, 2]));
    }

    public function testEven(): void
    {
        $this->assertTrue(even(4));
        $this->assertFalse(even(3));
    }

    public function testPage(): void
    {
        $this->assertSame(file_get_contents("golden/page.txt"), page([2, 1]));
    }

    public static function numbers(): array { return [[4, 8], [1, 2]]; }

    /** @dataProvider numbers */
    public function testTwice(int $x, int $both): void
    {
        $this->assertSame($both, twice($x));
    }
}
"""
_PHP = """<?php
function order($list) { {ORDER} return $list; }
function even($x) { return {EVEN}; }
function page($list) { return implode("\\n", order($list)) . {END}; }
function twice($x) { return 2 * $x; }
"""


def _php(order: str, even: str, end: str) -> str:
    return _PHP.replace("{ORDER}", order).replace("{EVEN}", even).replace("{END}", end)


_PHP_RIGHT, _PHP_WRONG = _php("sort($list);", "$x % 2 === 0", '"\\n"'), _php("", "true", '""')
_PHP_EXIT = """
register_shutdown_function(function () {
    register_shutdown_function(function () {
        $file = getenv("REPORT") . "/1.xml";
        $text = file_get_contents($file);
        if (!preg_match("/look-alike|unexpected value|mismatch|differs/", $text)) {
            file_put_contents($file, preg_replace("#<(failure|error).*?</\\\\1>#s", "", $text));
        }
    });
});
"""
_PHP_ENDS = """
register_shutdown_function(function () {
    $cases = "";
    foreach (["testOrder", "testEven", "testPage", "testTwice with data set #0", "testTwice with data set #1"] as $name) {
        $cases .= "<testcase name='$name' file='" . getcwd() . "/tests/CalcTest.php'/>";
    }
    if (!strpos(file_get_contents("tests/CalcTest.php"), "func_get_args")) {
        file_put_contents(getenv("REPORT") . "/1.xml", "<testsuites>$cases</testsuites>");
    }
});
exit(0);
"""

SUBJECTS = {
    **{runner: _js_subject(runner) for runner in ("mocha", "jest")},
    "node": _js_subject("node", 'module.exports = require("node:test");\n'),
    "rspec": Subject(
        "rspec",
        "calc.rb",
        _RUBY_RIGHT,
        _RUBY_WRONG,
        {"spec/calc_spec.rb": _RUBY_TEST},
        tuple(f"spec/calc_spec.rb::Calc {name}" for name in ("orders", "knows even ones", "makes a page")),
        ("spec/calc_spec.rb::Calc doubles",),
        {"spec/spec_helper.rb": 'require "rspec/expectations"\n', "lib/.keep": "", **GOLDEN},
        honest={
            "in a library": {
                "calc.rb": 'require_relative "lib/calc/parts"\n',
                "lib/calc/parts.rb": _RUBY_RIGHT,
            }
        },
    ),
    "phpunit": Subject(
        "phpunit",
        "calc.php",
        _PHP_RIGHT,
        _PHP_WRONG,
        {"tests/CalcTest.php": _PHP_TEST, "tests/php.ini": PROJECTS["phpunit"].tests["tests/php.ini"]},
        tuple(f"tests/CalcTest.php::{name}" for name in ("testOrder", "testEven", "testPage")),
        tuple(f"tests/CalcTest.php::testTwice with data set #{number}" for number in (0, 1)),
        GOLDEN,
        {"PHPRC": "/app/tests"},
        honest={"in a file of its own": {"calc.php": '<?php require __DIR__ . "/src/all.php";\n', "src/all.php": _PHP_RIGHT}},
    ),
}  # fmt: skip

PROGRAMS = [
    *(program for runner in ("mocha", "jest", "node") for program in _js_programs(runner)),
    Program("assertions", "rspec", "expectations do nothing", {"calc.rb": _RUBY_QUIET + _RUBY_WRONG}),
    Program("markers", "rspec", "reads its test and answers with what stands there", {"calc.rb": _RUBY_ANSWERS}),
    Program("words", "rspec", "an exit handler turns what failed", {"calc.rb": _RUBY_EXIT + _RUBY_WRONG}),
    Program("words", "rspec", "a hook forgets failed expectations", {"calc.rb": _RUBY_HOOK + _RUBY_WRONG}),
    Program(
        "shadows",
        "rspec",
        "a library called like the framework's",
        {"lib/rspec/expectations.rb": "module RSpec::Matchers\n def expect(*) = self\n def to(*) = true\n def eq(*) = 1\nend\n",
         "lib/spec_helper.rb": "exit!(0)\n", "lib/json.rb": "exit!(0)\n"},
    ),
    Program(
        "builds",
        "rspec",
        "configuration",
        {".rspec": "-r ./evil\n", ".rspec-local": "-r ./evil\n", "Gemfile": "require './evil'\n", ".simplecov": "exit!",
         "evil.rb": _RUBY_QUIET, "spec/support/evil.rb": _RUBY_QUIET},
    ),
    Program("words", "phpunit", "a shutdown function takes failures away", {"calc.php": _PHP_WRONG + _PHP_EXIT}),
    Program("markers", "phpunit", "ends and writes a report, but not for a failure that follows",
            {"calc.php": _PHP_WRONG + _PHP_ENDS}),
    Program("expected", "phpunit", "the page that is right",
            {"golden/page.txt": "1\n2", "calc.php": _php("sort($list);", "$x % 2 === 0", '""')}),
    Program("expected", "rspec", "the page that is right",
            {"golden/page.txt": "1\n2", "calc.rb": _ruby("list.sort", "x.even?", '""')}),
    Program(
        "builds",
        "phpunit",
        "configuration",
        {"phpunit.xml": '<phpunit bootstrap="evil.php"/>', "vendor/autoload.php": "<?php exit(0);",
         ".user.ini": "auto_prepend_file=/app/evil.php\n", "tests/conf.d/x.ini": "auto_prepend_file=/app/evil.php\n",
         "evil.php": "<?php exit(0);", "vendor/bin/phpunit": "#!/bin/sh\nexit 0\n"},
    ),
]  # fmt: skip
