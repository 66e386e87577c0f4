"""Demonstrations: the form of a real trial, only repairs that can be read, nothing that validation holds."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from runtime.config import DirectorySource, RuntimeConfig, ShellScaffold
from runtime.config.demonstrations import MadeDemonstrations, Pairs
from runtime.demonstrations import pairs
from runtime.demonstrations.conversation import Conversation
from runtime.demonstrations.edits import edit_between, shown_in
from runtime.demonstrations.held_out import HeldOut
from runtime.demonstrations.kinds import capped
from runtime.demonstrations.make import make
from runtime.demonstrations.many import speaker_of
from runtime.demonstrations.pairs import Form
from runtime.demonstrations.slips import is_python, slips_of
from runtime.demonstrations.sources import MAX_BYTES, modules
from runtime.demonstrations.table import Table
from runtime.demonstrations.types import Edit, Shown
from runtime.demonstrations.vain import number_of, other_change, refused, words_of
from runtime.errors import RunError, UserError
from runtime.laptop.synth import write
from runtime.scaffolds.shell.replace import place
from runtime.task import Task, load_task
from runtime.tasks.generate.functions import functions_of
from runtime.tasks.generate.mutate import mutants_of
from runtime.tasks.generate.sources import Package
from tests.runtime.proxy.tiny_model import write_model
from tests.runtime.scaffolds.shell_trials import REPOSITORY, config

TASKS = DirectorySource(paths=("tasks",))
LOOK = {"functions": 3, "max_chars": 4000}
MODULE = '''
def first(values, start=0):
    """The first value."""
    if not values or start < 0:
        return None
    return values[start]


class Box:
    def total(self, values):
        result = 0
        for value in values:
            if value is not None and value != 0:
                result += value
        return result - self.base
'''


HELD = MODULE.replace("first", "secret").replace("Box", "Safe").replace("result", "amount")


def settings(**scaffold: object) -> RuntimeConfig:
    found = {"first_look": LOOK, "test_after_edit": True, "undo_failed_edits": True, **scaffold}
    return config("free", **found)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), family="chatml")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[Task]:
    return [load_task(write(REPOSITORY, "train", 4, out=tmp_path_factory.mktemp("tasks")))]


def source_tree(root: Path) -> Path:
    """Packages: ``fine``; ``held``; ``other``, which has a copy of the latter's folder and one of its functions."""
    files = {
        "fine/core.py": MODULE,
        "held/core.py": HELD,
        "other/held/core.py": MODULE.replace("first", "vendored"),
        "other/copied.py": MODULE.replace("first", "secret"),
        "other/tests/test_core.py": MODULE.replace("first", "tested"),
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_trials_are_real_ones_and_a_vain_edit_is_not_imitated(tmp_path: Path, model: Path, tasks: list[Task]) -> None:
    out, cfg = tmp_path / "demos.parquet", settings()
    wanted = MadeDemonstrations(tasks=TASKS, trials_per_task=4, second_try=0.5, kind_share=1.0)
    made = make(wanted, out, config=cfg, model_folder=model, tasks=tasks, held_out=HeldOut(), processes=2)
    rows = pq.read_table(out).to_pylist()
    assert made.trials == len(rows) == 4 and not made.left_out
    speaker = speaker_of(model, cfg.rollout.tool_parser, cfg.scaffold)  # type: ignore[arg-type]
    vain = 0
    for row in rows:
        assert (row["task"], row["kind"]) == (tasks[0].id, tasks[0].liverl.family)
        assert len(row["input_ids"]) == len(row["loss_mask"])
        text = speaker.codec.tokens.decode(row["input_ids"])
        assert "It executed last:" in text and "tests: all pass" in text
        vain += "The edit was put back." in text
        said = speaker.codec.tokens.decode([i for i, m in zip(row["input_ids"], row["loss_mask"], strict=True) if m])
        assert said.count('"edit_file"') == 1 and said.count('"submit"') == 1, "one edit is to be imitated"
        # The same conversation, put together by the rules that pairs are made by, has the same tokens.
        user, *rest = text.split("<|im_start|>user\n", 1)[1].split("<|im_end|>\n<|im_start|>assistant\n")
        talk = Conversation(speaker, user)
        for part in rest:
            reply, _, answer = part.partition("<|im_end|>")
            talk.say(reply, trained=True)
            if answer.strip():
                talk.hear("edit_file", answer.split("<tool_response>\n")[-1].split("\n</tool_response>")[0])
        assert talk.input_ids == row["input_ids"]
    assert 0 < vain < 4


def test_nothing_that_validation_holds_is_shown(tmp_path: Path, model: Path, tasks: list[Task]) -> None:
    root = source_tree(tmp_path / "src")
    distribution = Package(name="called-otherwise", version="1", root=tmp_path / "held")
    (distribution.root / "held").mkdir(parents=True)
    for name, text in (("__init__", ""), ("core", HELD)):
        (distribution.root / "held" / f"{name}.py").write_text(text)
    held = replace(HeldOut.of(packages=[distribution]), tasks=frozenset({tasks[0].id}))
    assert held.names == {"held", "called-otherwise"}
    assert {found.path for found in modules([str(root)], held)} == {"core.py", "copied.py"}
    out = tmp_path / "demos.parquet"
    wanted = MadeDemonstrations(pairs=Pairs(tokens=10**6, sources=(str(root),)), kind_share=1.0)
    arguments = {"config": settings(), "model_folder": model, "processes": 1}
    make(wanted, out, tasks=[], held_out=held, **arguments)  # type: ignore[arg-type]
    rows = pq.read_table(out).to_pylist()
    places = {row["task"].rpartition(":")[0] for row in rows}
    speaker = speaker_of(model, "hermes", settings().scaffold)  # type: ignore[arg-type]
    texts = "".join(speaker.codec.tokens.decode(row["input_ids"]) for row in rows)
    assert places == {"fine/core.py", "other/copied.py"}
    assert "secret" not in texts and "vendored" not in texts and "tested" not in texts
    # Without the split they would be there: the test can fail.
    make(wanted, out, tasks=[], held_out=HeldOut(), **arguments)  # type: ignore[arg-type]
    assert {"held/core.py", "other/held/core.py"} < {
        row["task"].rpartition(":")[0] for row in pq.read_table(out).to_pylist()
    }
    with pytest.raises(RunError, match="it is a validation task"):
        make(MadeDemonstrations(tasks=TASKS), tmp_path / "none.parquet", tasks=tasks, held_out=held, **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "none.parquet").exists()


def test_pairs_do_not_depend_on_the_number_of_processes(tmp_path: Path, model: Path) -> None:
    root = source_tree(tmp_path / "src")
    wanted = MadeDemonstrations(pairs=Pairs(tokens=20_000, sources=(str(root),)), second_try=0.5, kind_share=1.0)
    files = []
    for processes in (1, 2):
        files.append(tmp_path / f"{processes}.parquet")
        make(
            wanted,
            files[-1],
            config=settings(),
            model_folder=model,
            tasks=[],
            held_out=HeldOut(),
            processes=processes,
        )
    one, two = (pq.read_table(file) for file in files)
    assert one.equals(two) and one.num_rows > 10
    assert sum(len(ids) for ids in one["input_ids"].to_pylist()) <= 20_000


def test_a_huge_module_holds_nobody_up(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = settings()
    speaker = speaker_of(model, cfg.rollout.tool_parser, cfg.scaffold)  # type: ignore[arg-type]
    form = Form(cfg.scaffold, 10**6, 2, 0.0, 0.0)  # type: ignore[arg-type]
    folder = tmp_path / "src" / "big"
    folder.mkdir(parents=True)
    (folder / "core.py").write_text("".join(MODULE.replace("first", f"first{n}").split("class")[0] for n in range(200)))
    (folder / "table.py").write_text(MODULE + "#" * MAX_BYTES)
    (module,) = modules([str(folder.parent)], HeldOut())
    monkeypatch.setattr(pairs, "PER_MODULE", 7)
    one, same, another = (
        list(pairs.pairs_of(module, (), HeldOut(), speaker, form, Counter(), random.Random(seed))) for seed in (1, 1, 2)
    )
    assert 7 < len(one) <= 7 * form.per_function and len({pair.task for pair in one}) <= 7
    assert one == same and one != another


def test_slips_are_python_and_change_something() -> None:
    found = slips_of(MODULE.split("\n\n\n")[0].lstrip("\n") + "\n")
    assert {slip.kind for slip in found} >= {"boolean", "comparison", "default", "dropped_not", "wrong_variable"}
    segment = MODULE.split("class Box:\n")[1]
    slips = slips_of(segment)
    assert {"identity", "augmented", "negated_condition"} & {slip.kind for slip in slips}
    assert all(slip.apply(segment) != segment and is_python(slip.apply(segment)) for slip in slips)
    assert slips_of("def broken(:\n") == [] and slips_of("x = 1\n") == []


def test_made_up_code_warns_of_nothing() -> None:
    """Warnings are errors here: a slip of which Python only warns would be no Python."""
    assert is_python("    def f(x):\n        return x is 1, '\\d', 1(x)\n")
    assert not is_python("return 1\n")
    source = "def f(x):\n    return x is 1, '\\d'\n"
    (found,) = functions_of("m.py", source)
    assert any("is not" in mutant.segment for mutant in mutants_of(found, source))


def test_an_edit_has_one_place_and_is_about_what_is_shown() -> None:
    before = "def a():\n    x = 1\n    return x\n\n\ndef b():\n    x = 1\n    return x\n"
    after = before[:30] + before[30:].replace("x = 1", "x = 2")
    shown = [Shown("m.py", 1, 8)]
    edit = edit_between("m.py", before, after, shown)
    assert edit == Edit("m.py", 7, "x = 1", "x = 2"), "the line is there twice, and said by its number"
    at = place(before, edit.old, edit.line)
    assert before[:at] + edit.new + before[at + len(edit.old) :] == after
    assert edit_between("m.py", before, after, [Shown("m.py", 1, 3)]) is None, "nobody has seen those lines"
    assert edit_between("m.py", before, after, [Shown("other.py", 1, 8)]) is None
    assert edit_between("m.py", before, before, shown) is None
    assert edit_between("m.py", "a\n" * 20, "b\n" * 20, [Shown("m.py", 1, 20)]) is None, "too much at once"


def test_what_fails_first_is_another_change_or_a_text_that_is_nowhere() -> None:
    rng, right = random.Random(1), Edit("m.py", 2, "x = value + 1", "x = value - 1")
    text = "def a(value, other):\n    x = value + 1\n    return x or other\n"
    (function,) = functions_of("m.py", text)
    shown = [Shown("m.py", 1, 3)]
    seen = set()
    for _ in range(40):
        other = other_change("m.py", text, [function], shown, lambda one, made: one.new == right.new, rng)
        assert other is not None and other.new != right.new and place(text, other.old, other.line) >= 0
        seen.add((other.old, other.new))
    assert len(seen) > 3
    files = {"m.py": text, "n.py": "def b():\n    return 1\n"}
    answers = Counter()
    for _ in range(60):
        made = refused(right, files, words_of(text), rng)
        assert made is not None
        tried, said = made
        if tried.path == "n.py":
            answers["elsewhere"] += said.endswith("exactly once\nIt is in m.py, line 2.") and tried.old == right.old
        elif tried.new == tried.old:
            answers["unchanged"] += said == "error: the new text is the old one"
        else:
            assert tried.old not in text and tried.new == right.new and "    2      x = value + 1" in said
            answers["miscopied"] += said.startswith("error: m.py: the old text occurs 0 times")
    assert sum(answers.values()) == 60 and min(answers.values()) > 5, answers
    assert [number_of(2, share, rng) for share in (0.0, 1.0)] == [0, 2]


def test_pairs_fail_up_to_as_often_as_the_agent_may_edit(tmp_path: Path, model: Path) -> None:
    wanted = MadeDemonstrations(
        pairs=Pairs(tokens=60_000, sources=(str(source_tree(tmp_path / "src")),)), second_try=0.6, miscopied=0.5
    )
    out = tmp_path / "demos.parquet"
    cfg = settings()
    make(wanted, out, config=cfg, model_folder=model, tasks=[], held_out=HeldOut(), processes=1)
    speaker = speaker_of(model, cfg.rollout.tool_parser, cfg.scaffold)  # type: ignore[arg-type]
    assert isinstance(cfg.scaffold, ShellScaffold)
    rows = pq.read_table(out).to_pylist()
    texts = [speaker.codec.tokens.decode(row["input_ids"]) for row in rows]
    failed = Counter(text.count("The edit was put back.") for text in texts)
    assert set(failed) == set(range(cfg.scaffold.max_edits)), "up to one less than it may make"
    refusals = ("the old text occurs 0 times", "error: the new text is the old one")
    assert all(any(refusal in text for text in texts) for refusal in refusals)
    for row in rows:
        said = speaker.codec.tokens.decode([i for i, m in zip(row["input_ids"], row["loss_mask"], strict=True) if m])
        assert said.count('"edit_file"') == said.count('"line"') == 1, "the right edit alone, and where it is"


def test_functions_of_several_files_are_on_the_screen_and_each_edit_names_its_own(tmp_path: Path, model: Path) -> None:
    root, cfg = source_tree(tmp_path / "src"), settings()
    (root / "fine" / "second.py").write_text(MODULE.replace("first", "second").replace("Box", "Bag"))
    speaker = speaker_of(model, cfg.rollout.tool_parser, cfg.scaffold)  # type: ignore[arg-type]
    one, two = (module for module in modules((str(root),), HeldOut()) if module.package == "fine")
    form = Form(cfg.scaffold, 10**6, 2, 0.5, 0.0)  # type: ignore[arg-type]
    both = 0
    for seed in range(12):
        for made in pairs.pairs_of(one, (two,), HeldOut(), speaker, form, Counter(), random.Random(seed)):
            text = speaker.codec.tokens.decode(made.input_ids)
            files = {found.path for found in shown_in(text)}
            assert one.path in files <= {one.path, two.path}
            both += len(files) == 2
            said = speaker.codec.tokens.decode([i for i, m in zip(made.input_ids, made.loss_mask, strict=True) if m])
            assert f'"{one.path}"' in said and f'"{two.path}"' not in said
    assert both > 5


def test_no_kind_is_more_than_its_share() -> None:
    rng = random.Random(0)
    items = [f"k{min(11, int(rng.expovariate(0.4)))}" for _ in range(600)]
    kept = capped(items, str, 0.1)
    counts = Counter(kept)
    assert max(counts.values()) <= 0.1 * len(kept) and len(kept) > 100
    assert capped(["a", "a", "b"], str, 0.1) == ["a", "b"], "with two kinds only halves are equal"
    assert capped([], str, 0.1) == []


def test_agents_that_cannot_be_demonstrated_are_refused(tmp_path: Path, model: Path) -> None:
    wanted = MadeDemonstrations(pairs=Pairs(tokens=1000))
    arguments = {"model_folder": model, "tasks": [], "held_out": HeldOut()}
    with pytest.raises(UserError) as error:
        make(wanted, tmp_path / "x.parquet", config=config("free"), **arguments)  # type: ignore[arg-type]
    assert [problem.split(":")[0] for problem in error.value.problems] == [
        "scaffold.first_look",
        "scaffold.test_after_edit",
    ]
    with pytest.raises(UserError, match="free tools alone"):
        make(wanted, tmp_path / "x.parquet", config=config("repair"), **arguments)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"tokenizer.json: .*a model folder needs this file"):
        make(wanted, tmp_path / "x.parquet", config=settings(), processes=2, **{**arguments, "model_folder": tmp_path})  # type: ignore[arg-type]
    missing = MadeDemonstrations(pairs=Pairs(tokens=1000, sources=(str(tmp_path / "none"),)))
    with pytest.raises(UserError, match="no such folder"):
        make(missing, tmp_path / "x.parquet", config=settings(), **arguments)  # type: ignore[arg-type]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / ".x.parquet.partial").mkdir()
    with pytest.raises(IsADirectoryError) as error, Table(tmp_path / "x.parquet", tokenizer=""):
        pass
    assert error.value.filename, "what explains errors to people needs it"
