"""The page as files: what is written, what is refused, and that hostile text stays one text."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from liverl.cli import build_app
from runtime.errors import UserError
from runtime.page.library import Run
from runtime.page.static import script, write_static
from tests.runtime.page.made import HOSTILE, make_run


def answer(folder: Path, name: str) -> object:
    """What a data file hands to the page, read as the browser does: one call with two texts."""
    text = (folder / "data" / f"{name}.js").read_text(encoding="utf-8")
    found = re.fullmatch(r"LiveRL\.receive\((\".*?\"), (\".*\")\);\n", text)
    assert found and json.loads(found[1]) == name
    return json.loads(json.loads(found[2]))


def test_a_page_of_files_holds_what_the_server_would_say(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", steps=2)
    run.finish("succeeded", exit_code=0, cause="")
    out = tmp_path / "page"
    result = CliRunner().invoke(build_app(), ["export", str(run.path), "-o", str(out), "--trials", "3", "--json"])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.output)
    assert (facts["trials"], facts["of"]) == (3, 12)
    shown = Run(run.path)
    assert answer(out, "curves") == json.loads(json.dumps(shown.curves()))
    listed = answer(out, "trials")
    assert isinstance(listed, dict) and [row.get("file") for row in listed["rows"]] == ["1", "2", "3", *[None] * 9]
    one = answer(out, "trial-1")
    assert isinstance(one, dict) and one["turns"][0]["messages"][0]["content"].endswith(HOSTILE)
    assert (out / "data" / "tokens-1-0.js").exists() and not (out / "data" / "trial-4.js").exists()
    html = (out / "index.html").read_text()
    assert "script-src 'self'" in html and "unsafe" not in html and "data-static" in html
    shown.close()


def test_only_a_page_of_ours_is_replaced(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", steps=1)
    shown, out = Run(run.path), tmp_path / "page"
    write_static(shown, out, trials=1)
    write_static(shown, out, trials=0)
    assert not (out / "data" / "trial-1.js").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="no page of ours"):
        write_static(shown, tmp_path / "mine", trials=0)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    shown.close()


@pytest.mark.parametrize("text", [HOSTILE, '");alert(1);("', "\u2028\u2029", "</script>", "\\", '{"__proto__": 1}'])
def test_hostile_text_is_one_text(text: str) -> None:
    content = script("trial-1", {"text": text}).decode()
    assert content.count("\n") == 1 and "\u2028" not in content and "\u2029" not in content
    body = content.removeprefix('LiveRL.receive("trial-1", ').removesuffix(");\n")
    assert json.loads(json.loads(body)) == {"text": text}
