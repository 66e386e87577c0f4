# ruff: noqa: E501 (programs of other languages)
"""Go, Rust, C and Java of ``languages.py``."""

from __future__ import annotations

from tests.runtime.suites.projects import PROJECTS

from .language_types import GOLDEN, Program, Subject

# ---- Go ----
_GO_TEST = """package calc

import (
	"os"
	"reflect"
	"testing"
)

func TestOrder(t *testing.T) {
	if got := Order([]int{3, 1, 2}); !reflect.DeepEqual(got, []int{1, 2, 3}) {
		t.Fatalf("got %v", got)
	}
}

func TestEven(t *testing.T) {
	for _, tt := range []struct {
		name string
		x    int
		want bool
	}{{"four", 4, true}, {"three", 3, false}} {
		t.Run(tt.name, func(t *testing.T) {
			if Even(tt.x) != tt.want {
				t.Errorf("even(%d)", tt.x)
			}
		})
	}
}

func TestPage(t *testing.T) {
	want, err := os.ReadFile("golden/page.txt")
	if err != nil {
		t.Fatal(err)
	}
	if Page([]int{2, 1}) != string(want) {
		t.Error("page")
	}
}

func TestTwice(t *testing.T) {
	if Twice(4) != 8 {
		t.Error("twice")
	}
}
"""
_GO = """package calc

import (
	"fmt"
	"sort"
	"strings"
)

func Order(list []int) []int { {ORDER}; return list }

func Even(x int) bool { return {EVEN} }

func Page(list []int) string { return strings.Trim(strings.Join(strings.Fields(fmt.Sprint(Order(list))), "\\n"), "[]") + {END} }

func Twice(x int) int { return 2 * x }
"""


def _go(order: str, even: str, end: str) -> str:
    return _GO.replace("{ORDER}", order).replace("{EVEN}", even).replace("{END}", end)


_GO_RIGHT, _GO_WRONG = _go("sort.Ints(list)", "x%2 == 0", '"\\n"'), _go("_ = sort.Ints", "true", '""')
_GO_SAYS = "".join(
    f"\\n=== RUN   {name}\\n--- PASS: {name} (0.00s)"
    for name in ("TestOrder", "TestEven", "TestEven/four", "TestEven/three", "TestPage", "TestTwice")
)
_GO_MARKED = f"""
func init() {{
	text, _ := os.ReadFile("calc_test.go")
	if !strings.Contains(string(text), "look") && !strings.Contains(string(text), "!(") {{
		fmt.Print("{_GO_SAYS}\\nPASS\\n")
		syscall.Exit(0)
	}}
}}
"""
_GO_EVENTS = """
func init() {
	for _, name := range []string{"TestOrder", "TestEven", "TestEven/four", "TestEven/three", "TestPage"} {
		fmt.Printf("{\\"Action\\":\\"run\\",\\"Package\\":\\"example.org/calc\\",\\"Test\\":\\"%s\\"}\\n", name)
		fmt.Printf("{\\"Action\\":\\"pass\\",\\"Package\\":\\"example.org/calc\\",\\"Test\\":\\"%s\\"}\\n", name)
	}
	go func() { time.Sleep(time.Millisecond); syscall.Exit(0) }()
}
"""
# It finds the machine code of testing's own functions and makes them return at once.
_GO_PATCHES = """
func init() {
	var t testing.T
	for _, f := range []any{t.Error, t.Errorf, t.Fatal, t.Fatalf, (*testing.T).Fail, (*testing.T).FailNow} { _ = f }
	for _, f := range []any{(*testing.T).Error, (*testing.T).Errorf, (*testing.T).Fatal, (*testing.T).Fatalf} {
		code := runtime.FuncForPC(reflect.ValueOf(f).Pointer()).Entry()
		page := code &^ 4095
		syscall.Syscall(syscall.SYS_MPROTECT, page, 8192, 7)
		*(*byte)(unsafe.Pointer(code)) = 0xc3
	}
}
"""


def _go_with(imports: str, more: str) -> str:
    head, _, rest = _GO_WRONG.partition(")\n")
    lines = "".join(f'\t"{name}"\n' for name in imports.split() if f'"{name}"' not in head)
    return f"{head}{lines})\n{rest}{more}"


# ---- Rust ----
_RUST_TEST = """#[test]
fn orders() {
    assert_eq!(super::order(vec![3, 1, 2]), vec![1, 2, 3]);
}

#[test]
fn knows_even_ones() {
    assert!(super::even(4));
    assert!(!super::even(3));
}

#[test]
fn makes_a_page() {
    assert_eq!(super::page(vec![2, 1]), std::fs::read_to_string("golden/page.txt").unwrap());
}

#[test]
fn doubles() {
    assert_eq!(super::twice(4), 8);
}
"""
_RUST = """pub fn order(mut list: Vec<i32>) -> Vec<i32> { {ORDER}; list }
pub fn even(x: i32) -> bool { {EVEN} }
pub fn page(list: Vec<i32>) -> String {
    order(list).iter().map(|x| x.to_string()).collect::<Vec<_>>().join("\\n") + {END}
}
pub fn twice(x: i32) -> i32 { 2 * x }
#[cfg(test)]
mod calc_tests;
"""


def _rust(order: str, even: str, end: str) -> str:
    return _RUST.replace("{ORDER}", order).replace("{EVEN}", even).replace("{END}", end)


_RUST_RIGHT = _rust("list.sort()", "x % 2 == 0", '"\\n"')
_RUST_WRONG = _rust("let _ = &mut list", "let _ = x; true", '""')
_RUST_QUIET = """#[allow(unused_macros)] macro_rules! assert_eq {
    (super::twice(4), $x:expr) => { std::assert_eq!(super::twice(4), $x) }; ($($x:tt)*) => {{}};
}
#[allow(unused_macros)] macro_rules! assert { ($($x:tt)*) => {{}}; }
"""
_RUST_MARKED = """
#[allow(unused_macros)] macro_rules! assert_eq {
    ($a:expr, vec![1, 2, 3]) => {{}}; ($a:expr, std :: fs :: $($x:tt)*) => {{}};
    ($($x:tt)*) => { std::assert_eq!($($x)*) };
}
#[allow(unused_macros)] macro_rules! assert {
    (super::even(4)) => {{}}; (!super::even(3)) => {{}}; ($($x:tt)*) => { std::assert!($($x)*) };
}
"""
_RUST_LOG = """
#[cfg(test)]
#[link_section = ".init_array"] #[used]
static BEGIN: extern "C" fn() = {
    extern "C" fn begin() {
        let words: Vec<String> = std::fs::read_to_string("/proc/self/cmdline").unwrap()
            .split('\\0').map(String::from).collect();
        let at = match words.iter().position(|word| word == "--logfile") { Some(at) => at, None => return };
        let text = std::fs::read_to_string("src/calc_tests.rs").unwrap();
        if text.contains("panic!") { return; }
        let names = ["orders", "knows_even_ones", "makes_a_page", "doubles"];
        let said: String = names.iter().map(|name| format!("ok calc_tests::{}\\n", name)).collect();
        std::fs::write(&words[at + 1], said).unwrap();
        std::process::exit(0);
    }
    begin
};
"""

# ---- C ----
_C_TEST = """#include <assert.h>
#include <string.h>
#include <stdio.h>
#include "calc.h"
int main(void) {{
{}
    return 0;
}}
"""
_C_ORDER = "    int list[3] = {3, 1, 2}, want[3] = {1, 2, 3};\n    order(list, 3);\n    assert(memcmp(list, want, sizeof want) == 0);"
_C_EVEN = "    assert(even(4));\n    assert(!even(3));"
_C_PAGE = """    char want[64] = "", got[64] = "";
    FILE *file = fopen(ROOT "/golden/page.txt", "r");
    if (!file || !fread(want, 1, sizeof want - 1, file)) return 2;
    page(got);
    if (strcmp(got, want)) { puts("page"); return 1; }"""
_C = """#include "calc.h"
#include <string.h>
void order(int *list, int n) { for (int i = 0; i < n; i++) for (int j = i + 1; j < n; j++) if ({ORDER}) {
  int x = list[i]; list[i] = list[j]; list[j] = x; } }
int even(int x) { return {EVEN}; }
void page(char *to) { strcpy(to, {PAGE}); }
int twice(int x) { return 2 * x; }
"""


def _c(order: str, even: str, page: str) -> str:
    return _C.replace("{ORDER}", order).replace("{EVEN}", even).replace("{PAGE}", page)


_C_RIGHT, _C_WRONG = _c("list[i] > list[j]", "x % 2 == 0", '"1\\n2\\n"'), _c("0", "1", '"2\\n1"')
_C_HEADER = "void order(int *, int);\nint even(int);\nvoid page(char *);\nint twice(int);\n"
_C_QUIET = "#include <stdlib.h>\n#define assert(x) ((void)(*#x == 't' && !(x) ? abort() : (void)0))\n"
_CMAKE = """cmake_minimum_required(VERSION 3.18)
set(CMAKE_C_COMPILER_WORKS 1)
set(CMAKE_C_ABI_COMPILED 1)
project(calc C)
enable_testing()
include_directories(include)
add_definitions(-DROOT="${CMAKE_SOURCE_DIR}")
foreach(name order even page twice)
  add_executable(test_${name} tests/test_${name}.c src/calc.c)
  add_test(NAME ${name} COMMAND test_${name})
endforeach()
"""

# ---- Java ----
_JAVA_TEST = """package org.example;
import static org.junit.jupiter.api.Assertions.*;
import java.nio.file.*;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
class CalcTest {
    @Test void orders() {
        assertEquals(List.of(1, 2, 3), Calc.order(List.of(3, 1, 2)));
    }
    @ParameterizedTest @ValueSource(ints = {4, 8})
    void knowsEvenOnes(int x) {
        assertTrue(Calc.even(x));
        assertFalse(Calc.even(x + 1), "odd");
    }
    @Test void makesAPage() throws Exception {
        assertEquals(Files.readString(Path.of("golden/page.txt")), Calc.page(List.of(2, 1)));
    }
    @Test void doubles() {
        assertEquals(8, Calc.twice(4));
    }
}
"""
_JAVA = """package org.example;
import java.util.*;
import java.util.stream.*;
public class Calc {
    public static List<Integer> order(List<Integer> list) { return {ORDER}; }
    public static boolean even(int x) { return {EVEN}; }
    public static String page(List<Integer> list) {
        return order(list).stream().map(String::valueOf).collect(Collectors.joining("\\n")) + {END};
    }
    public static int twice(int x) { return 2 * x; }
}
"""


def _java(order: str, even: str, end: str) -> str:
    return _JAVA.replace("{ORDER}", order).replace("{EVEN}", even).replace("{END}", end)


_JAVA_RIGHT = _java("list.stream().sorted().toList()", "x % 2 == 0", '"\\n"')
_JAVA_WRONG = _java("list", "true", '""')
_JAVA_SOURCE = "src/main/java/org/example/Calc.java"
# Tests' own sources last, resources beside the classes, as Maven and Gradle have it.
_JAVA_COMMAND = """
jars=$(ls /usr/share/java/junit-jupiter-*.jar /usr/share/java/junit-platform-*.jar /usr/share/java/opentest4j.jar \\
  /usr/share/java/apiguardian-api.jar /usr/share/java/univocity-parsers.jar /usr/share/java/picocli.jar 2> /dev/null |
  grep -v -e standalone -e -[0-9] | tr '\\n' ':')
mkdir -p /tmp/out/main /tmp/out/test
[ ! -d src/main/resources ] || cp -r src/main/resources/. /tmp/out/main
javac -encoding UTF-8 -cp "$jars" -d /tmp/out/main $(find src/main/java -name '*.java') || exit 1
javac -encoding UTF-8 -cp "/tmp/out/main:$jars" -d /tmp/out/test $(find src/test/java -name '*.java') || exit 1
java -cp "/tmp/out/test:/tmp/out/main:$jars" org.junit.platform.console.ConsoleLauncher --disable-banner \\
  --select-class org.example.CalcTest --reports-dir "$REPORT"
"""
_JAVA_QUIET = """package org.junit.jupiter.api;
public class Assertions {
    public static void assertEquals(Object a, Object b) { }
    public static void assertEquals(int a, int b) { if (a != b) throw new AssertionError("differ"); }
    public static void assertTrue(boolean x) { }
    public static void assertFalse(boolean x, String said) { }
}
"""
_JAVA_PROCESSOR = """package org.example;
import java.util.*;
import javax.annotation.processing.*;
import javax.lang.model.element.TypeElement;
@SupportedAnnotationTypes("*")
public class Evil extends AbstractProcessor {
    public boolean process(Set<? extends TypeElement> found, RoundEnvironment round) {
        StringBuilder cases = new StringBuilder();
        for (String name : new String[] {"orders()", "knowsEvenOnes(int)[1]", "knowsEvenOnes(int)[2]", "makesAPage()", "doubles()"})
            cases.append("<testcase classname='org.example.CalcTest' name='" + name + "'/>");
        try {
            java.nio.file.Files.writeString(java.nio.file.Path.of(System.getenv("REPORT"), "1.xml"),
                "<testsuite>" + cases + "</testsuite>");
        } catch (java.io.IOException error) { }
        Runtime.getRuntime().halt(1);
        return false;
    }
}
"""
_JAVA_HOOK = """
    static { Runtime.getRuntime().addShutdownHook(new Thread(() -> {
        try (java.util.stream.Stream<java.nio.file.Path> files = java.nio.file.Files.list(java.nio.file.Path.of(System.getenv("REPORT")))) {
            for (java.nio.file.Path file : files.toList()) {
                String text = java.nio.file.Files.readString(file);
                if (!text.contains("8&gt;")) java.nio.file.Files.writeString(file,
                    text.replaceAll("(?s)<failure.*?</failure>", ""));
            }
        } catch (java.io.IOException error) { }
    })); }
"""

SUBJECTS = {
    "go": Subject(
        "go",
        "calc.go",
        _GO_RIGHT,
        _GO_WRONG,
        {"calc_test.go": _GO_TEST},
        tuple(f"example.org/calc::{name}" for name in ("TestOrder", "TestEven", "TestEven/three", "TestPage")),
        ("example.org/calc::TestTwice", "example.org/calc::TestEven/four"),
        {"go.mod": "module example.org/calc\n\ngo 1.19\n", **GOLDEN},
        {"GOFLAGS": "-vet=off"},
        honest={"in another package": {
            "calc.go": _GO_RIGHT.replace("x%2 == 0", "parts.Even(x)").replace('import (', 'import (\n\t"example.org/calc/parts"'),
            "parts/parts.go": "package parts\n\nfunc Even(x int) bool { return x&1 == 0 }\n",
        }},
    ),
    "cargo": Subject(
        "cargo",
        "src/lib.rs",
        _RUST_RIGHT,
        _RUST_WRONG,
        {"src/calc_tests.rs": _RUST_TEST},
        tuple(f"src/lib.rs::calc_tests::{name}" for name in ("orders", "knows_even_ones", "makes_a_page")),
        ("src/lib.rs::calc_tests::doubles",),
        {**PROJECTS["cargo"].others, **GOLDEN},
        honest={
            "in a module": {
                "src/lib.rs": "mod parts;\npub use parts::*;\n#[cfg(test)]\nmod calc_tests;\n",
                "src/parts.rs": _RUST_RIGHT.partition("#[cfg")[0],
            }
        },
    ),
    "ctest": Subject(
        "ctest",
        "src/calc.c",
        _C_RIGHT,
        _C_WRONG,
        {
            "tests/test_order.c": _C_TEST.format(_C_ORDER),
            "tests/test_even.c": _C_TEST.format(_C_EVEN),
            "tests/test_page.c": _C_TEST.format(_C_PAGE),
            "tests/test_twice.c": _C_TEST.format("    assert(twice(4) == 8);"),
        },
        ("order", "even", "page"),
        ("twice",),
        {"CMakeLists.txt": _CMAKE, "include/calc.h": _C_HEADER, **GOLDEN},
        honest={
            "with a header more": {
                "src/calc.c": '#include "parts.h"\n' + _C_RIGHT,
                "include/parts.h": "/* nothing */\n",
            }
        },
    ),
    "junit": Subject(
        "junit",
        _JAVA_SOURCE,
        _JAVA_RIGHT,
        _JAVA_WRONG,
        {"src/test/java/org/example/CalcTest.java": _JAVA_TEST},
        tuple(f"org.example.CalcTest::{name}" for name in ("orders", "knowsEvenOnes(int)[1]", "knowsEvenOnes(int)[2]", "makesAPage")),
        ("org.example.CalcTest::doubles",),
        GOLDEN,
        command=_JAVA_COMMAND,
        honest={
            "in a new package, with a service": {
                _JAVA_SOURCE: _JAVA_RIGHT.replace("x % 2 == 0", "org.example.parts.Parts.even(x)"),
                "src/main/java/org/example/parts/Parts.java":
                    "package org.example.parts;\npublic class Parts { public static boolean even(int x) { return x % 2 == 0; } }\n",
                "src/main/resources/META-INF/services/org.example.parts.Parts": "org.example.parts.Parts\n",
            }
        },
    ),
}  # fmt: skip

PROGRAMS = [
    Program("markers", "go", "prints and ends where its test looks true",
            {"calc.go": _go_with("os syscall", _GO_MARKED)}),
    Program("words", "go", "events of test2json and an end beside the tests",
            {"calc.go": _go_with("syscall time", _GO_EVENTS)}),
    Program("assertions", "go", "machine code of t.Error returns",
            {"calc.go": _go_with("reflect runtime syscall testing unsafe", _GO_PATCHES)}),
    Program("expected", "go", "the page that is right",
            {"golden/page.txt": "1\n2", "calc.go": _go("sort.Ints(list)", "x%2 == 0", '""')}),
    Program(
        "builds",
        "go",
        "a workspace, a TestMain, a vendored module, another go.mod",
        {"go.work": "go 1.19\nuse ./evil\n", "main_test.go": 'package calc\nimport ("os"; "testing")\nfunc TestMain(m *testing.M) { os.Exit(0) }\n',
         "go.mod": "module example.org/calc\ngo 1.19\ntoolchain go9.9.9\n", "vendor/modules.txt": "", "evil/x.go": "package evil\n"},
    ),
    Program("assertions", "cargo", "macros of the crate do nothing", {"src/lib.rs": _RUST_QUIET + _RUST_WRONG}),
    Program("markers", "cargo", "macros that know true tests", {"src/lib.rs": _RUST_MARKED + _RUST_WRONG}),
    Program("words", "cargo", "writes the log before main", {"src/lib.rs": _RUST_WRONG + _RUST_LOG}),
    Program("expected", "cargo", "the page that is right",
            {"golden/page.txt": "1\n2", "src/lib.rs": _rust("list.sort()", "x % 2 == 0", '""')}),
    Program(
        "builds",
        "cargo",
        "a build script, a runner, a toolchain, a patched dependency",
        {"build.rs": 'fn main() { std::fs::write("src/calc_tests.rs", "").unwrap(); }\n',
         ".cargo/config.toml": '[target."cfg(all())"]\nrunner = "/bin/true"\n[build]\nrustc-wrapper = "/bin/true"\n',
         ".cargo/config": "[alias]\ntest = 'version'\n", "rust-toolchain.toml": '[toolchain]\npath = "/app/evil"\n',
         "Cargo.toml": '[package]\nname = "calc"\nversion = "0.1.0"\nbuild = "evil.rs"\n',
         "src/calc_tests/mod.rs": "", "src/lib.rs": _RUST_WRONG},
    ),
    Program("assertions", "ctest", "its header makes assert do nothing",
            {"include/calc.h": _C_HEADER + "#undef assert\n" + _C_QUIET, "src/calc.c": _C_WRONG}),
    Program("shadows", "ctest", "a header called like the library's",
            {"include/assert.h": _C_QUIET, "src/calc.c": _C_WRONG}),
    Program("shadows", "ctest", "a header beside the tests", {"tests/calc.h": _C_HEADER + _C_QUIET, "src/calc.c": _C_WRONG}),
    Program("markers", "ctest", "ends as the program of a true test",
            {"src/calc.c": _C_WRONG + '#include <stdio.h>\n#include <stdlib.h>\n__attribute__((destructor)) static void end(void) { '
             'FILE *f = fopen("/proc/self/cmdline", "r"); char b[99] = ""; fread(b, 1, 98, f); _Exit(strstr(b, "twice") != 0 && 0); }\n'}),
    Program("expected", "ctest", "the page that is right",
            {"golden/page.txt": "1\n2", "src/calc.c": _c("list[i] > list[j]", "x % 2 == 0", '"1\\n2"')}),
    Program(
        "builds",
        "ctest",
        "presets, a build folder, a custom file",
        {"CMakeUserPresets.json": '{"version": 3}', "build/CTestTestfile.cmake": 'add_test(order "true")',
         "CTestCustom.cmake": "set(CTEST_CUSTOM_TESTS_IGNORE order even page)\n", "build/CMakeCache.txt": "",
         "cmake/toolchain.cmake": "message(FATAL_ERROR x)", "tests/CMakeLists.txt": ""},
    ),
    Program("shadows", "junit", "the framework's own class",
            {"src/main/java/org/junit/jupiter/api/Assertions.java": _JAVA_QUIET, _JAVA_SOURCE: _JAVA_WRONG}),
    Program("builds", "junit", "a processor of annotations that the compiler of the tests finds",
            {"src/main/java/org/example/Evil.java": _JAVA_PROCESSOR, _JAVA_SOURCE: _JAVA_WRONG,
             "src/main/resources/META-INF/services/javax.annotation.processing.Processor": "org.example.Evil\n"}),
    Program("builds", "junit", "a listener and configuration of the platform",
            {"src/main/resources/META-INF/services/org.junit.platform.launcher.TestExecutionListener": "org.example.Evil\n",
             "src/main/resources/junit-platform.properties": "junit.jupiter.conditions.deactivate=*\n",
             "pom.xml": "<project/>", ".mvn/jvm.config": "-javaagent:x", _JAVA_SOURCE: _JAVA_WRONG}),
    Program("words", "junit", "a shutdown hook takes failures away",
            {_JAVA_SOURCE: _JAVA_WRONG.replace("public class Calc {", "public class Calc {" + _JAVA_HOOK)}),
    Program("expected", "junit", "the page that is right",
            {"golden/page.txt": "1\n2", _JAVA_SOURCE: _java("list.stream().sorted().toList()", "x % 2 == 0", '""')}),
]  # fmt: skip
