"""Rust: cargo builds the test programs, and each writes libtest's log (``--logfile``), which what a test prints does
not reach. Ids are the source file of the program, ``::`` and the test's path: ``tests/calc.rs::adds``,
``src/lib.rs::tests::adds``.
"""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from runtime.suites import look_alikes
from runtime.suites.base import FAILED, PASSED, SKIPPED, Outcomes, Report, Suite, below

_WORDS: Final = {"ok": PASSED, "failed": FAILED, "ignored": SKIPPED}
_ARTIFACT = (
    r's/^{"reason":"compiler-artifact".*"manifest_path":"\([^"]*\)".*"src_path":"\([^"]*\)"'
    r'.*"profile":{[^}]*"test":true}.*"executable":"\([^"]*\)".*/\1|\2|\3/p'
)


def _script(ids: Sequence[str]) -> str:
    names: dict[str, list[str]] = {}
    for test_id in ids:
        file, _, name = test_id.partition("::")
        names.setdefault(file, []).append(name)
    cases = "\n".join(
        f"    {shlex.quote(file)}) set -- {' '.join(shlex.quote(name) for name in of)} ;;" for file, of in names.items()
    )
    return f"""
export CARGO_NET_OFFLINE=true CARGO_TERM_COLOR=never
cargo test --workspace --no-run --message-format=json > "$TOOLS/messages" || exit
number=0
sed -n {shlex.quote(_ARTIFACT)} "$TOOLS/messages" > "$TOOLS/programs"
while IFS='|' read -r manifest source program; do
  case "${{source#"$PWD"/}}" in
{cases}
    *) continue ;;
  esac
  number=$((number + 1))
  printf '%s' "$source" > "$REPORT/$number.source"
  set -- --exact --logfile "$REPORT/$number.log" "$@"
  (cd "${{manifest%/*}}" && CARGO_MANIFEST_DIR=$PWD exec "$program" "$@") < /dev/null
  printf '%s' "$?" > "$REPORT/$number.code"
done < "$TOOLS/programs"
"""


def _parse(files: Mapping[str, bytes], workdir: str) -> Report:
    outcomes, codes = Outcomes(), []
    for name, source in sorted(files.items()):
        if not name.endswith(".source"):
            continue
        number = name.removesuffix(".source")
        file = below(source.decode("utf-8", "replace"), workdir)
        codes.append(files.get(f"{number}.code", b""))
        for line in files.get(f"{number}.log", b"").decode("utf-8", "replace").split("\n"):
            said, _, test = line.rpartition(" ")
            word = said.partition(":")[0].partition(",")[0].partition(" ")[0]
            if test and word in _WORDS:
                outcomes.add(f"{file}::{test}", _WORDS[word])
    return Report(outcomes.found, bool(codes) and all(code in (b"0", b"101") for code in codes))


def _where(test_id: str, sources: Iterable[str]) -> str | None:
    """The file of the program, or the one in which a module of it lies: ``src/lib.rs::a::tests::adds`` may stand in
    ``src/a/tests.rs``."""
    file, _, name = test_id.partition("::")
    held = set(sources)
    folder, of = posixpath.split(file)
    modules = name.split("::")[:-1]
    folder = folder if of in ("lib.rs", "main.rs", "mod.rs") or "tests" in folder else posixpath.splitext(file)[0]
    for length in range(len(modules), 0, -1):
        place = posixpath.join(folder, *modules[:length])
        found = [path for path in (f"{place}.rs", f"{place}/mod.rs") if path in held]
        if found:
            return found[0]
    return file if file in held else None


CARGO = Suite(
    name="cargo",
    language="rust",
    script=_script,
    parse=_parse,
    protected=(
        *("tests/*", "Cargo.toml", "Cargo.lock", ".cargo", "target", "vendor", "build.rs"),
        *("rust-toolchain", "rust-toolchain.toml"),
    ),
    ids_name_files=False,
    secret_report=True,
    look_alike=look_alikes.RUST,
    comment="//",
    suffixes=(".rs",),
    where=_where,
)
