"""Reports in JUnit's XML: Maven's Surefire, Gradle, ctest, PHPUnit, and whatever else a task's own command writes.

Ids are class, ``::`` and method for Java; the test's name alone for ctest; file, ``::`` and method for PHPUnit.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from runtime.suites import look_alikes
from runtime.suites.base import ERROR, FAILED, Outcomes, Report, Suite, below, files_of, reports
from runtime.suites.reading import Case, junit_cases

Name = Callable[[Case, str], str]


def _parser(name: Name) -> Callable[[Mapping[str, bytes], str], Report]:
    def parse(files: Mapping[str, bytes], workdir: str) -> Report:
        outcomes, whole = Outcomes(), []
        for content in reports(files, ".xml"):
            cases = junit_cases(content)
            whole.append(cases is not None)
            for case in cases or ():
                outcomes.add(name(case, workdir), case.outcome)
        return Report(outcomes.found, bool(whole) and all(whole))

    return parse


def _java_name(case: Case, workdir: str) -> str:
    group = case.attributes.get("classname") or case.suite.get("name", "")
    return f"{group}::{case.attributes.get('name', '').removesuffix('()')}"


_OF_A_CLASS = ("", "initializationError", "executionError", "classMethod")
"""Names under which Surefire and Gradle tell of what comes before and after all tests of a class."""


def _parse_java(files: Mapping[str, bytes], workdir: str) -> Report:
    """A class whose end has failed has failed: its tests were seen to pass before that."""
    report = _parser(_java_name)(files, workdir)
    broken = {
        test_id.partition("::")[0]
        for test_id, outcome in report.outcomes.items()
        if outcome in (FAILED, ERROR) and test_id.partition("::")[2] in _OF_A_CLASS
    }
    worse = {test_id: ERROR for test_id in report.outcomes if test_id.partition("::")[0] in broken}
    return replace(report, outcomes={**report.outcomes, **worse})


def _plain_name(case: Case, workdir: str) -> str:
    return case.attributes.get("name", "")


def _php_name(case: Case, workdir: str) -> str:
    file = case.attributes.get("file") or case.suite.get("file", "")
    return f"{below(file, workdir)}::{case.attributes.get('name', '')}"


def _maven(ids: Sequence[str]) -> str:
    classes = ",".join(dict.fromkeys(test_id.partition("::")[0] for test_id in ids))
    options = (
        "-o -B -q -fae -DfailIfNoTests=false -Dsurefire.skipAfterFailureCount=0 -Dsurefire.failIfNoSpecifiedTests=false"
    )
    return f"""
find . -path '*/target/surefire-reports/*.xml' -exec rm -f {{}} +
mvn {options} -Dtest={shlex.quote(classes)} test
{_COLLECT.format("*/target/surefire-reports/TEST-*.xml")}"""


def _gradle(ids: Sequence[str]) -> str:
    """The task ``test`` of every project of the build. A class is asked for with those in it, whose names begin alike:
    Gradle's patterns know them by other names from one version to another."""
    outermost = dict.fromkeys(test_id.partition("::")[0].partition("$")[0] for test_id in ids)
    chosen = " ".join(f"--tests {shlex.quote(f'{name}*')}" for name in outermost)
    options = "--offline --no-daemon --no-build-cache --continue --console=plain -q"
    # A wrapper is of use where what it would fetch is there; of an unknown user Java finds no home.
    return f"""
find . -path '*/build/test-results/*' -name '*.xml' -exec rm -f {{}} +
home="${{GRADLE_USER_HOME:-${{HOME:-/tmp}}/.gradle}}"
gradle=gradle
if [ -f gradlew ] && {{ [ -d "$home/wrapper/dists" ] || ! command -v gradle > /dev/null; }}; then
  gradle="sh ./gradlew"
fi
$gradle -g "$home" {options} test {chosen}
{_COLLECT.format("*/build/test-results/test/TEST-*.xml")}"""


_COLLECT = """code=$?
number=0
find . -path '{}' > "$TOOLS/found"
while IFS= read -r file; do number=$((number + 1)); cp -- "$file" "$REPORT/$number.xml"; done < "$TOOLS/found"
exit "$code"
"""


def _ctest(ids: Sequence[str]) -> str:
    pattern = f"^({'|'.join(re.escape(test_id) for test_id in ids)})$"
    chosen = f"-R {shlex.quote(pattern)}" if len(pattern) < 100_000 else ""
    return f"""
failed() {{ code=$?; tail -n 30 "$1"; exit "$code"; }}
[ -f build/CMakeCache.txt ] || cmake -S . -B build > "$TOOLS/configured" || failed "$TOOLS/configured"
cmake --build build -j 2 > "$TOOLS/built" || failed "$TOOLS/built"
ctest --test-dir build --no-tests=error --output-junit "$REPORT/ctest.xml" {chosen}
"""


def _phpunit(ids: Sequence[str]) -> str:
    files = " ".join(shlex.quote(f"./{file}") for file in files_of(ids))
    return f"""
PATH="$PWD/vendor/bin:$PATH"
number=0
for file in {files}; do
  number=$((number + 1))
  : > "$REPORT/$number.xml"
  phpunit --do-not-cache-result --log-junit "$REPORT/$number.xml" "$file"
done
"""


def _class_file(test_id: str, sources: Iterable[str]) -> str | None:
    """Where Java has a class, a nested one in its outermost's file."""
    path = test_id.partition("::")[0].partition("$")[0].replace(".", "/")
    found = [
        file
        for file in sources
        if posixpath.splitext(file)[0] == path or posixpath.splitext(file)[0].endswith(f"/{path}")
    ]
    return found[0] if len(found) == 1 else None


def _program_file(test_id: str, sources: Iterable[str]) -> str | None:
    """The file that is called like the test, but for ``test`` in either name."""
    found = [file for file in sources if _bare(posixpath.splitext(posixpath.basename(file))[0]) == _bare(test_id)]
    return found[0] if len(found) == 1 else None


def _bare(name: str) -> str:
    return re.sub(r"^tests?[_-]?|[_-]?tests?$", "", name.lower()) or name.lower()


JUNIT = Suite(
    name="junit",
    language="java",
    script=None,
    parse=_parse_java,
    protected=(
        *("src/test/*", "META-INF/services/org.junit.*", "junit-platform.properties", "target", ".mvn", "mvnw*"),
        *("testng*.xml", "mockito-extensions"),
        *("pom.xml", "build.gradle*", "settings.gradle*", "gradle.properties", "gradle", "gradlew*", ".gradle"),
    ),
    ids_name_files=False,
    secret_report=True,
    look_alike=look_alikes.java,
    comment="//",
    suffixes=(".java", ".kt"),
    where=_class_file,
    function=lambda name: re.split(r"[{(\[]", name, maxsplit=1)[0].rstrip() or name,
)
MAVEN = replace(JUNIT, name="maven", script=_maven, secret_report=False)
GRADLE = replace(
    JUNIT,
    name="gradle",
    script=_gradle,
    secret_report=False,
    protected=(
        *JUNIT.protected,
        *("*.gradle", "*.gradle.kts", "buildSrc", "build-logic"),
        # Packages of code may be called build.
        *("build/classes/*", "build/generated/*", "build/resources/*", "build/test-results/*", "build/tmp/*"),
    ),
)
CTEST = Suite(
    name="ctest",
    language="c",
    script=_ctest,
    parse=_parser(_plain_name),
    protected=(
        *("tests/*", "test/*", "build", "CMakeLists.txt", "*.cmake", "CMakePresets.json", "CMakeUserPresets.json"),
    ),
    ids_name_files=False,
    secret_report=True,
    look_alike=look_alikes.C,
    comment="//",
    suffixes=(".c", ".cc", ".cpp", ".cxx"),
    where=_program_file,
    function=lambda name: name,
)
PHPUNIT = Suite(
    name="phpunit",
    language="php",
    script=_phpunit,
    parse=_parser(_php_name),
    protected=(
        *("phpunit.xml*", "phpunit.dist.xml", "vendor", "composer.json", "composer.lock", ".user.ini", "php.ini"),
        *(".phpunit.result.cache", ".phpunit.cache", ".phpunit.d"),
    ),
    ids_name_files=True,
    secret_report=True,
    look_alike=look_alikes.PHP,
    comment="//",
    suffixes=(".php",),
    function=lambda name: name.partition(" with data set ")[0],
)
