"""Rust: cargo builds the test programs, and each writes libtest's log (``--logfile``), which what a test prints does
not reach. Ids are the source file of the program, ``::`` and the test's path: ``tests/calc.rs::adds``,
``src/lib.rs::tests::adds``.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
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
    where=lambda test_id, sources: next((file for file in sources if file == test_id.partition("::")[0]), None),
)
