"""Small tasks of our own in the exact form of published sets, and the repositories that their images hold.

``python -m tests.runtime.sets.published`` writes the rows below ``rows/`` again.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.runtime.sets.repositories import Clone, clone, git

ROWS = Path(__file__).parent / "rows"
_START, _END = ">>>>> Start Test Output", ">>>>> End Test Output"


@dataclass(frozen=True)
class Toy:
    """A module of one function: as it is wrong and as it is right, what holds always, and what shows the fault."""

    name: str
    wrong: str
    right: str
    kept: str
    shown: str
    issue: str

    @property
    def module(self) -> str:
        return f"{self.name}.py"

    @property
    def tests(self) -> str:
        return f"tests/test_{self.name}.py"

    def test(self, *, all_of_them: bool) -> str:
        head = f"from {self.name} import {self.name}\n\n\ndef test_kept():\n    assert {self.kept}\n"
        return head + (f"\n\ndef test_shown():\n    assert {self.shown}\n" if all_of_them else "")

    def files(self, *, right: bool, all_tests: bool) -> dict[str, str]:
        code = self.right if right else self.wrong
        return {self.module: code, self.tests: self.test(all_of_them=all_tests), "conftest.py": ""}


TOYS = (
    Toy(
        "clamp",
        "def clamp(x, low, high):\n    return max(low, x)\n",
        "def clamp(x, low, high):\n    return min(max(low, x), high)\n",
        "clamp(-1, 0, 9) == 0",
        "clamp(12, 0, 9) == 9",
        "clamp() lets large numbers through\n\nclamp(12, 0, 9) gives 12 where 9 is the upper bound.",
    ),
    Toy(
        "slug",
        "def slug(text):\n    return text.lower().replace(' ', '-')\n",
        "def slug(text):\n    return '-'.join(text.lower().split())\n",
        "slug('A b') == 'a-b'",
        "slug(' A  b ') == 'a-b'",
        "slug() doubles dashes\n\nTwo spaces in a row come out as two dashes, and spaces at the ends as dashes too.",
    ),
    Toy(
        "median",
        "def median(numbers):\n    return sorted(numbers)[len(numbers) // 2]\n",
        "def median(numbers):\n    ordered, half = sorted(numbers), len(numbers) // 2\n"
        "    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2\n",
        "median([3, 1, 2]) == 2",
        "median([1, 2, 3, 4]) == 2.5",
        "median() of an even count\n\nFor four numbers it gives the third and not the mean of the middle two.",
    ),
    Toy(
        "wrap",
        "def wrap(words, width):\n    return [words[i : i + width] for i in range(0, len(words) - width, width)]\n",
        "def wrap(words, width):\n    return [words[i : i + width] for i in range(0, len(words), width)]\n",
        "wrap([], 2) == []",
        "wrap([1, 2, 3], 2) == [[1, 2], [3]]",
        "wrap() loses the last line\n\nwrap([1, 2, 3], 2) gives [[1, 2]]; the 3 is gone.",
    ),
)
SETS = ("swe-bench", "swe-smith", "swe-gym", "r2e", "swe-rebench")
FILES = {
    "swe-bench": "swe-bench.parquet",
    "swe-smith": "swe-smith.jsonl",
    "swe-gym": "swe-gym.json",
    "r2e": "r2e.jsonl",
    "swe-rebench": "swe-rebench.parquet",
}


def image_of(kind: str, toy: Toy, folder: Path) -> Clone:
    """What the image of a task holds: SWE-smith's before the bug, the others' before the repair."""
    smith = kind == "swe-smith"
    return clone(folder, toy.files(right=smith, all_tests=smith))


def patch(before: dict[str, str], after: dict[str, str]) -> str:
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        git(folder, "init", "-q")
        for files in (before, after):
            for name, content in files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text(content)
            git(folder, "add", "-A")
            if files is before:
                git(folder, "commit", "-q", "-m", "x")
        return git(folder, "diff", "--cached", "HEAD") + "\n"


def row(kind: str, toy: Toy, number: int, base: str) -> dict[str, Any]:
    ids = [f"{toy.tests}::test_shown"], [f"{toy.tests}::test_kept"]
    solution = patch({toy.module: toy.wrong}, {toy.module: toy.right})
    tests = patch({toy.tests: toy.test(all_of_them=False)}, {toy.tests: toy.test(all_of_them=True)})
    instance = f"liverl__{toy.name}-{number}"
    common = {
        "repo": f"liverl/{toy.name}",
        "instance_id": instance,
        "base_commit": base,
        "patch": solution,
        "test_patch": tests,
        "problem_statement": toy.issue,
        "hints_text": f"Just write {toy.right}",
        "created_at": "2026-01-01T00:00:00Z",
        "version": "1.0",
    }
    if kind == "swe-bench":
        script = "\n".join(
            [
                "#!/bin/bash",
                "set -uxo pipefail",
                "source /opt/miniconda3/bin/activate",
                "conda activate testbed",
                "cd /testbed",
                "git config --global --add safe.directory /testbed",
                "git status",
                f"git -c core.fileMode=false diff {base}",
                f"git checkout {base} {toy.tests}",
                f"git apply -v - <<'EOF_114329324912'\n{tests}\nEOF_114329324912",
                f": '{_START}'",
                f"pytest -rA {toy.tests}",
                f": '{_END}'",
                f"git checkout {base} {toy.tests}",
                "",
            ]
        )
        return common | {
            "FAIL_TO_PASS": json.dumps(ids[0]),
            "PASS_TO_PASS": json.dumps(ids[1]),
            "environment_setup_commit": base,
            "difficulty": "<15 min fix",
            "image": f"swebench/sweb.eval.x86_64.{instance.replace('__', '_1776_')}:latest",
            "eval_script": script,
            "log_parser": "parse_log_pytest",
            "eval_type": "pass_and_fail",
        }
    if kind == "swe-gym":
        return common | {"FAIL_TO_PASS": ids[0], "PASS_TO_PASS": ids[1], "repo": "iterative/dvc"}
    if kind == "swe-rebench":
        install = {
            "install": "pip install -e .",
            "log_parser": "parse_log_pytest",
            "packages": "requirements.txt",
            "pip_packages": ["pytest"],
            "pre_install": None,
            "python": "3.11",
            "reqs_path": ["requirements.txt"],
            "env_yml_path": None,
            "env_vars": None,
            "no_use_env": None,
            "test_cmd": "pytest --no-header -rA --tb=line --color=no -p no:cacheprovider -W ignore::DeprecationWarning",
        }
        return common | {
            "FAIL_TO_PASS": ids[0],
            "PASS_TO_PASS": ids[1],
            "environment_setup_commit": base,
            "requirements": "",
            "environment": "",
            "meta": {
                "commit_name": "head_commit",
                "failed_lite_validators": [],
                "has_test_patch": True,
                "is_lite": True,
                "llm_score": {"difficulty_score": 0, "issue_text_score": 0, "test_score": 0},
                "num_modified_files": 1,
            },
            "license_name": "apache-2.0",
            "install_config": install,
            "docker_image": f"swerebench/sweb.eval.x86_64.{instance.replace('__', '_1776_')}",
        }
    if kind == "swe-smith":
        name = f"liverl__{toy.name}.{base[:8]}"
        return {
            "instance_id": f"{name}.func_basic__{number:08d}",
            "patch": patch({toy.module: toy.right}, {toy.module: toy.wrong}),
            "FAIL_TO_PASS": ids[0],
            "PASS_TO_PASS": ids[1],
            "image_name": f"jyangballin/swesmith.x86_64.{name.replace('__', '_1776_')}",
            "repo": f"swesmith/{name}",
            "problem_statement": toy.issue,
        }
    commit = f"{number:040x}"
    change = {
        "old_file_content": toy.wrong,
        "new_file_content": toy.right,
        "header": {"file": {"path": toy.module}, "misc_line": None},
        "index_line": None,
        "is_binary_file": False,
        "binary_line": None,
        "minus_file": {"path": f"a/{toy.module}"},
        "plus_file": {"path": f"b/{toy.module}"},
        "hunks": [],
    }
    parsed = {
        "file_diffs": [change],
        "old_commit_hash": f"{commit}^",
        "new_commit_hash": commit,
        "commit_message": "Repair",
        "commit_date": "2026-01-01T00:00:00",
        "metadata": {},
    }
    result = {
        "repo_name": toy.name,
        "new_commit_hash": commit,
        "test_file_codes": [toy.test(all_of_them=True)],
        "test_file_names": ["test_1.py"],
        "setup_res_code": 0,
        "setup_res_stdout": "",
        "setup_res_stderr": "",
    }
    return {
        "repo_name": toy.name,
        "docker_image": f"namanjain12/{toy.name}_final:{commit}",
        "commit_hash": commit,
        "parsed_commit_content": json.dumps(parsed),
        "execution_result_content": json.dumps(result),
        "modified_files": [toy.module],
        "modified_entity_summaries": [],
        "relevant_files": [toy.module],
        "num_non_test_files": 1,
        "num_non_test_func_methods": 1,
        "num_non_test_lines": 2,
        "prompt": "A prompt with the patch in it.",
        "problem_statement": f"[ISSUE]\n{toy.issue}\n[/ISSUE]",
        "expected_output_json": json.dumps({"test_kept": "PASSED", "test_shown": "PASSED"}),
    }


def rows(kind: str) -> list[dict[str, Any]]:
    made = []
    for number, toy in enumerate(TOYS, 1):
        with tempfile.TemporaryDirectory() as folder:
            made.append(row(kind, toy, number, image_of(kind, toy, Path(folder)).base))
    return made


def main() -> None:
    ROWS.mkdir(exist_ok=True)
    for kind, name in FILES.items():
        made = rows(kind)
        if name.endswith(".parquet"):
            pq.write_table(pa.Table.from_pylist(made), ROWS / name)
        elif name.endswith(".jsonl"):
            (ROWS / name).write_text("".join(json.dumps(one) + "\n" for one in made))
        else:
            (ROWS / name).write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
