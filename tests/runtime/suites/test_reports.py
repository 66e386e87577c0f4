"""Parsers of reports: what a runner wrote is read back, whatever stands between, and nothing makes them fail."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import quoteattr

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.suites.base import COMMAND_NOT_FOUND, Report
from runtime.suites.reading import junit_cases
from runtime.suites.table import SUITES, language_of

RECORDED = Path(__file__).parent / "recorded"
OUTCOMES = ("passed", "failed", "skipped")
# Names as tests have them, and as a forger would choose them; JUnit's XML has no control characters.
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), min_size=1).filter(
    lambda name: name == name.strip() and "::" not in name
)
NASTY = st.sampled_from(
    ["a \"b\" <c> & 'd'", "]]>", "--- PASS: x (0.00s)", "ok", "tests/x.py", "ü \u202e", '{"a": 1}', "a: b, c", "a  b"]
)
FOUND = st.dictionaries(NAMES | NASTY, st.sampled_from(OUTCOMES), min_size=1, max_size=8)
JUNK = st.lists(
    st.text(max_size=40)
    | st.sampled_from(["{", "[1]", '{"Action": 3}', "{}", "null", '{"Action":"pass"}', "[" * 3000]),
    max_size=6,
)


def parse(runner: str, files: Mapping[str, bytes]) -> Report:
    return SUITES[runner].parse(files, "/app")


def with_ids(prefix: str, found: Mapping[str, str]) -> dict[str, str]:
    return {f"{prefix}{name}": outcome for name, outcome in found.items()}


@given(FOUND, JUNK)
def test_lines_of_go_are_read_between_what_others_print(found: dict[str, str], junk: list[str]) -> None:
    words = {"passed": "pass", "failed": "fail", "skipped": "skip"}
    lines = [*junk]
    for name, outcome in found.items():
        lines.append(json.dumps({"Action": "run", "Package": "p", "Test": name}))
        lines += [line for line in junk if "\n" not in line]
        lines.append(json.dumps({"Action": words[outcome], "Package": "p", "Test": name}))
    lines.append(json.dumps({"Action": "fail", "Package": "p"}))
    report = parse("go", {"go.json": "\n".join(lines).encode("utf-8", "replace")})
    assert report == Report(with_ids("p::", found), complete=True)
    assert not parse("go", {"go.json": "\n".join(lines[:-1]).encode("utf-8", "replace")}).complete


def test_a_result_of_go_that_follows_on_what_a_test_printed_is_found() -> None:
    """As Go before 1.20 writes it."""
    lines = [
        {"Action": "run", "Package": "p", "Test": "TestA"},
        {"Action": "output", "Package": "p", "Test": "TestA", "Output": "no new line--- PASS: TestA (0.00s)\n"},
        {"Action": "run", "Package": "p", "Test": "TestB"},
        {"Action": "output", "Package": "p", "Test": "TestB", "Output": "--- PASS: TestA (0.00s)\n"},
        {"Action": "pass", "Package": "p"},
    ]
    report = parse("go", {"go.json": b"\n".join(json.dumps(line).encode() for line in lines)})
    assert report.outcomes == {"p::TestA": "passed", "p::TestB": "error"}


@given(FOUND)
def test_results_of_jest_and_vitest_are_read(found: dict[str, str]) -> None:
    results = [
        {"ancestorTitles": ["group"], "title": name, "status": "pending" if outcome == "skipped" else outcome}
        for name, outcome in found.items()
    ]
    table = {"numTotalTests": len(found), "testResults": [{"name": "/app/a/b.test.js", "assertionResults": results}]}
    for runner in ("jest", "vitest"):
        report = parse(runner, {"report.json": json.dumps(table).encode()})
        assert report == Report(with_ids("a/b.test.js::group ", found), complete=True)


@given(FOUND)
def test_results_of_mocha_are_read(found: dict[str, str]) -> None:
    table: dict[str, object] = {"stats": {"tests": len(found)}}
    for kind, wanted in (("passes", "passed"), ("pending", "skipped"), ("failures", "failed")):
        names = [name for name, outcome in found.items() if outcome == wanted]
        table[kind] = [{"file": "/app/t.js", "fullTitle": name} for name in names]
    report = parse("mocha", {"report.json": json.dumps(table).encode()})
    assert (dict(report.outcomes), report.complete) == (with_ids("t.js::", found), True)


@given(FOUND, JUNK)
def test_results_of_nodes_own_runner_are_read(found: dict[str, str], junk: list[str]) -> None:
    lines = [json.dumps({"name": ["group", name], "outcome": outcome}) for name, outcome in found.items()]
    files = {
        "1.source": b"./t/a.js",
        "1.jsonl": "\n".join([*lines, *junk, '{"event": "done"}']).encode("utf-8", "replace"),
    }
    assert parse("node", files) == Report(with_ids("t/a.js::group ", found), complete=True)
    assert not parse("node", {**files, "2.source": b"./t/b.js"}).complete, "whose process ended before its tests"


@given(FOUND)
def test_results_of_rspec_are_read(found: dict[str, str]) -> None:
    examples = [
        {"file_path": "./spec/a.rb", "full_description": name, "status": "pending" if of == "skipped" else of}
        for name, of in found.items()
    ]
    table = {"examples": examples, "summary": {"example_count": len(found)}}
    report = parse("rspec", {"rspec.json": json.dumps(table).encode()})
    assert report == Report(with_ids("spec/a.rb::", found), complete=True)


@given(st.dictionaries(st.from_regex(r"[a-z_:]{1,9}[a-z]", fullmatch=True), st.sampled_from(OUTCOMES), min_size=1))
def test_the_log_of_a_rust_program_is_read(found: dict[str, str]) -> None:
    words = {"passed": "ok", "failed": "failed", "skipped": "ignored, for a reason: x"}
    log = "".join(f"{words[outcome]} {name}\n" for name, outcome in found.items())
    files = {"1.source": b"/app/tests/a.rs", "1.log": log.encode(), "1.code": b"101"}
    assert parse("cargo", files) == Report(with_ids("tests/a.rs::", found), complete=True)
    assert not parse("cargo", {**files, "1.code": b"139"}).complete


@given(FOUND)
def test_junit_reports_are_read(found: dict[str, str]) -> None:
    inside = {"passed": "", "failed": "<failure>&lt;skipped/&gt;</failure>", "skipped": "<skipped/>"}
    cases = "".join(
        f"<testcase name={quoteattr(name)} classname='C' file='/app/t.php'>{inside[outcome]}"
        "<system-out><![CDATA[<testcase name='forged'/>]]></system-out></testcase>"
        for name, outcome in found.items()
    )
    files = {"1.xml": f"<testsuites><testsuite>{cases}</testsuite></testsuites>".encode()}
    for runner, prefix in (("ctest", ""), ("phpunit", "t.php::"), ("junit", "C::")):
        expected = with_ids(
            prefix, {name.removesuffix("()") if runner == "junit" else name: of for name, of in found.items()}
        )
        assert parse(runner, files) == Report(expected, complete=True)


def test_what_surefire_really_wrote_is_read() -> None:
    report = parse("maven", {"1.xml": (RECORDED / "surefire.xml").read_bytes()})
    assert report.complete and report.outcomes == {
        "org.example.CalcTest::clamps": "error",
        "org.example.CalcTest::adds": "failed",
        "org.example.CalcTest::later": "skipped",
        "org.example.CalcTest::doubles{int}[1]": "passed",
        "org.example.CalcTest::doubles{int}[2]": "passed",
        "org.example.CalcTest$Inner::doublesToo": "passed",
    }


def test_what_surefire_really_wrote_of_tests_that_it_ran_again_is_read() -> None:
    """Two dynamic tests have one name there; one never passes, and the report calls their name flaky."""
    content = (RECORDED / "surefire-rerun.xml").read_bytes()
    report = parse("maven", {"1.xml": content})
    passed = ["passes", "even(int)[2]", "again", "named(String, int)[1]", "named(String, int)[2]", "display"]
    failed = ["even(int)[1]", "fails", "made", "flaky"]
    assert report.complete and report.outcomes == {
        **{f"org.example.CalcTest::{name}": "passed" for name in passed},
        **{f"org.example.CalcTest::{name}": "failed" for name in failed},
        **{f"org.example.CalcTest::{name}": "skipped" for name in ("aborted", "disabled")},
        "org.example.CalcTest::errors": "error",
        "org.example.CalcTest$Inner::deep": "passed",
        "org.example.CalcTest$Inner$More::deeper": "failed",
    }
    # Cut anywhere, it is none; with a letter more in any of its marks, it says no better of any test.
    assert not any(junit_cases(content[:length]) for length in range(0, len(content.rstrip()), 7))
    for place in [
        at for at in range(len(content)) if content[at : at + 1] == b"<" and content[at + 1 : at + 2] != b"!"
    ]:
        damaged = parse("maven", {"1.xml": content[: place + 1] + b"x" + content[place + 1 :]}).outcomes
        assert all(
            damaged[name] != "passed" or of == "passed" for name, of in report.outcomes.items() if name in damaged
        )


@given(
    st.lists(
        st.sets(
            st.sampled_from(["failure", "rerunFailure", "flakyFailure", "skipped", "error", "rerunError", "flakyError"])
        ),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from(["maven", "gradle", "junit"]),
)
def test_whatever_surefires_schema_allows_is_read(cases: list[set[str]], runner: str) -> None:
    """Of surefire-test-report-3.0.xsd: its elements in its order, also several of those that may come again."""
    order = ["failure", "rerunFailure", "flakyFailure", "skipped", "error", "rerunError", "flakyError"]
    trace = "<stackTrace>at a.b</stackTrace><system-out>&lt;failure/&gt;</system-out>"
    text = ""
    for number, inside in enumerate(cases):
        text += f"<testcase name='t{number}' classname='a.B' time='1,234.5' group='x'>"
        for name in order:
            again = 2 if name in inside and name[:5] in ("rerun", "flaky") else int(name in inside)
            held = trace if name[:5] in ("rerun", "flaky") else "said"
            kind = "" if name == "skipped" else " type='T'"
            text += f"<{name}{kind} message='m'>{held}</{name}>" * again
        text += "<system-out><![CDATA[<error/>]]></system-out><system-err/></testcase>"
    counts = "name='a.B' time='0' tests='1' errors='0' skipped='0' failures='0'"
    content = (
        f"<testsuite version='3.0' {counts}><properties><property name='a' value='b'/></properties>{text}</testsuite>"
    )
    outcomes = {}
    for number, inside in enumerate(cases):
        failed = "error" if "error" in inside else "failed" if inside - {"skipped"} else ""
        outcomes[f"a.B::t{number}"] = failed or ("skipped" if inside else "passed")
    assert parse(runner, {"1.xml": content.encode()}) == Report(outcomes, complete=True)


def test_the_end_of_a_class_that_fails_fails_its_tests() -> None:
    for name in ("", "executionError"):
        cases = f"<testcase name='a' classname='C'/><testcase name='{name}' classname='C'><error type='T'/></testcase>"
        other = "<testcase name='b' classname='D'/>"
        report = parse("gradle", {"1.xml": f"<testsuite>{cases}{other}</testsuite>".encode()})
        assert report.outcomes == {"C::a": "error", f"C::{name}": "error", "D::b": "passed"}


def test_what_is_not_understood_is_no_pass() -> None:
    case = "<testcase name='a'><{}/></testcase>"
    for inside, outcome in (("incomplete", "error"), ("properties", "passed"), ("system-out", "passed")):
        cases = junit_cases(f"<testsuite>{case.format(inside)}</testsuite>".encode())
        assert cases is not None and [one.outcome for one in cases] == [outcome]


def test_what_junits_own_launcher_really_wrote_is_read() -> None:
    """As a ``test_command`` leaves it."""
    report = parse("junit", {"TEST-junit-jupiter.xml": (RECORDED / "console-junit5.xml").read_bytes()})
    assert report.complete and report.outcomes == {
        "org.example.CalcTest::adds": "passed",
        "org.example.CalcTest::named": "passed",
        "org.example.CalcTest::later": "skipped",
        "org.example.CalcTest::assumes": "skipped",
        "org.example.CalcTest::even(int)[1]": "passed",
        "org.example.CalcTest::made()[2]": "passed",
        "org.example.CalcTest$Inside$More::deeper": "passed",
    }


def test_what_gradle_really_wrote_is_read() -> None:
    files = {
        f"{number}.xml": (RECORDED / f"gradle{name}.xml").read_bytes() for number, name in enumerate(["", "-inner"])
    }
    report = parse("gradle", files)
    assert report.complete and report.outcomes == {
        "org.example.CalcTest::clamps": "failed",
        "org.example.CalcTest::adds": "failed",
        "org.example.CalcTest::later": "skipped",
        "org.example.CalcTest::doubles": "passed",
        "org.example.CalcTest$Inner::doublesToo": "passed",
    }


@pytest.mark.parametrize(
    ("runner", "program", "place", "report", "chosen"),
    [
        ("maven", "mvn", "target/surefire-reports", "surefire.xml", "-Dtest=org.example.CalcTest test"),
        ("gradle", "gradle", "build/test-results/test", "gradle.xml", "-q test --tests org.example.CalcTest*"),
        ("gradle", "gradlew", "build/test-results/test", "gradle.xml", "-q test --tests org.example.CalcTest*"),
    ],
)
def test_reports_of_java_are_taken_from_every_module_and_not_from_before(
    runner: str, program: str, place: str, report: str, chosen: str, tmp_path: Path
) -> None:
    """The script, with a stand-in for the program that writes what that wrote."""
    home = tmp_path / "home"
    for name in (f"a/{place}/TEST-old.xml", "report/.keep", "tools/.keep", "bin/.keep", "home/wrapper/dists/.keep"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("old")
    started = tmp_path / ("gradlew" if program == "gradlew" else f"bin/{program}")
    started.write_text(f'#!/bin/sh\necho "$@" > said\ncp {RECORDED}/{report} a/{place}/TEST-one.xml\nexit 1\n')
    started.chmod(0o755)
    script = SUITES[runner].script
    assert script is not None
    env = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "REPORT": f"{tmp_path}/report", "TOOLS": f"{tmp_path}/tools"}
    text = script(["org.example.CalcTest::adds", "org.example.CalcTest::clamps"])
    done = subprocess.run(["sh", "-c", text], cwd=tmp_path, env={**env, "GRADLE_USER_HOME": str(home)}, check=False)
    said = (tmp_path / "said").read_text()
    assert done.returncode == 1 and said.endswith(f"{chosen}\n"), said
    files = {path.name: path.read_bytes() for path in (tmp_path / "report").glob("*.xml")}
    assert list(files) == ["1.xml"] and len(parse(runner, files).outcomes) >= 4


@pytest.mark.parametrize("runner", [name for name, suite in SUITES.items() if suite.script is not None])
def test_a_runner_that_is_not_there_is_told_from_work_that_fails(runner: str, tmp_path: Path) -> None:
    for name in ("report", "tools"):
        (tmp_path / name).mkdir()
    script = SUITES[runner].script
    assert script is not None
    (tmp_path / "tools" / "ids").touch()
    env = {"PATH": f"{tmp_path}/none", "REPORT": f"{tmp_path}/report", "TOOLS": f"{tmp_path}/tools"}
    ended = subprocess.run(
        ["/bin/sh", "-c", script(["a/b::c"])], cwd=tmp_path, env=env, capture_output=True, check=False
    )
    assert ended.returncode == COMMAND_NOT_FOUND, ended.stderr
    assert not any(path.read_bytes() for path in (tmp_path / "report").iterdir())


@given(
    st.binary(max_size=300) | st.sampled_from([b"[" * 100_000, b'{"a":' * 50_000, b"<a>" * 5000, b"1" * 9000, b"\xff"])
)
def test_nothing_makes_a_parser_fail(content: bytes) -> None:
    names = (
        "go.json",
        "report.json",
        "rspec.json",
        "unittest.jsonl",
        "1.xml",
        "1.source",
        "1.log",
        "1.code",
        "1.jsonl",
    )
    for runner in SUITES:
        assert "passed" not in parse(runner, dict.fromkeys(names, content)).outcomes.values()
        assert not parse(runner, {}).complete


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "testResults",
                        "assertionResults",
                        "title",
                        "ancestorTitles",
                        "examples",
                        "summary",
                        "passes",
                        "stats",
                        "Action",
                        "Package",
                        "Test",
                        "id",
                        "outcome",
                        "tests",
                        "numTotalTests",
                    ]
                ),
                inner,
            )
        ),
        max_leaves=12,
    )
)
def test_nor_does_json_of_another_shape(value: object) -> None:
    content = json.dumps(value).encode()
    for runner in SUITES:
        parse(runner, dict.fromkeys(("go.json", "report.json", "rspec.json", "unittest.jsonl"), content))


@pytest.mark.parametrize(
    "content",
    [
        b'<!DOCTYPE a [<!ENTITY b "ccc">]><testsuite><testcase name="&b;"/></testsuite>',
        b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><testsuite/>',
        b"<testsuite><testcase name='a'/>",
        b"<x>" * 70 + b"</x>" * 70,
        b'<?xml version="1.0" encoding="base64"?><testsuite/>',
        b'<?xml version="1.0" encoding="none-such"?><testsuite/>',
        b"",
    ],
)
def test_a_report_with_a_document_type_or_not_whole_is_none(content: bytes) -> None:
    assert junit_cases(content) is None


def test_of_two_words_on_one_test_the_worse_counts() -> None:
    lines = [{"id": "a", "outcome": outcome} for outcome in ("passed", "failed", "passed")] + [{"event": "done"}]
    content = b"\n".join(json.dumps(line).encode() for line in lines)
    assert parse("unittest", {"unittest.jsonl": content}) == Report({"a": "failed"}, complete=True)


def test_every_suite_protects_what_steers_it() -> None:
    steering = {
        "go": ["calc_test.go", "a/b_test.go", "go.mod", "vendor/x/y.go", "a/testdata/z"],
        "cargo": ["Cargo.toml", "crates/a/Cargo.toml", ".cargo/config.toml", "target/debug/x", "crates/a/tests/b.rs"],
        "jest": ["jest.config.js", "package.json", "node_modules/jest/index.js", "src/__mocks__/fs.js"],
        "vitest": ["vite.config.ts", "postcss.config.js", "packages/a/.postcssrc.json"],
        "node": ["package.json", "a/test.js.snapshot"],
        "maven": ["pom.xml", "core/src/test/java/A.java", "src/main/resources/META-INF/services/org.junit.platform.x"],
        "gradle": [
            "build.gradle.kts",
            "a/src/test/java/A.java",
            "gradle/libs.versions.toml",
            "a/build/test-results/t.xml",
        ],
        "ctest": ["CMakeLists.txt", "src/CMakeLists.txt", "build/CMakeCache.txt", "tests/a.c"],
        "rspec": [".rspec", "spec/support/all.rb", "Gemfile"],
        "phpunit": ["phpunit.xml.dist", "vendor/autoload.php"],
    }
    for runner, paths in steering.items():
        assert all(SUITES[runner].steers(path) for path in paths), runner
        assert not any(
            SUITES[runner].steers(path) for path in ("src/calc.x", "lib/latest/x.y", "contest/a", "README.md")
        )
    assert not SUITES["gradle"].steers("src/main/java/org/example/build/Plan.java")


def test_languages() -> None:
    assert {language_of(runner) for runner in ("mini", "pytest", "unittest")} == {"python"}
    assert (language_of("vitest"), language_of("maven"), language_of("unknown")) == ("javascript", "java", "")
