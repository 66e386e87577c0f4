"""SWE-bench and the sets in its form: SWE-Gym and SWE-rebench.

SWE-bench's rows say everything since version 5 of its package: image, script, log parser. SWE-Gym's say neither image
nor command; both follow from its names. SWE-rebench's keep them in ``install_config`` and ``docker_image``. Columns:
``swebench/types.py`` 5.0.2, the data sets' cards.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, cast

from runtime.grading.log_verdict import PACKAGE
from runtime.task_format.published import Published, Rule
from runtime.tasks.sets.files import Row
from runtime.tasks.sets.patches import directives, there_before, touched
from runtime.tasks.sets.rows import commit, image, names, optional, table, text
from runtime.tasks.sets.scripts import CONDA, evaluation, told
from runtime.tasks.sets.types import BadRow, SetTask

Build = Callable[[Row, str], SetTask]

_GYM_COMMANDS = {
    "getmoto/moto": "pytest -n0 -rA",
    "conan-io/conan": "pytest -n0 -rA",
    "dask/dask": "pytest -n0 -rA --color=no",
    "project-monai/monai": "pytest -rA",
    "iterative/dvc": "pytest -rA",
    "bokeh/bokeh": "pytest -rA -n0",
    "modin-project/modin": "pytest -n0 -rA",
    "pydantic/pydantic": "pytest -rA --tb=short -vv -o console_output_style=classic --no-header",
    "pandas-dev/pandas": "pytest -rA --tb=long",
    "facebookresearch/hydra": "pytest -rA --tb=long",
    "hypothesisworks/hypothesis": "pytest -rA",
    "spyder-ide/spyder": "pytest -n0 -rA",
    "mne-tools/mne-python": "pytest -rA",
}
"""Of the set's own package; mypy's tests are chosen by words of the test patch."""


def swe_bench(row: Row, origin: str) -> SetTask:
    if row.get("eval_script") is None:
        raise BadRow(
            "no column eval_script: rows of before swebench 5 leave the commands to the package of that time; take the"
            " set's present revision"
        )
    script = text(row, "eval_script")
    parser, kind = text(row, "log_parser"), optional(row, "eval_type") or "pass_and_fail"
    if kind not in ("pass_and_fail", "fail_only"):
        raise BadRow(f"eval_type {kind!r}: there are pass_and_fail and fail_only")
    if _assets(row):
        raise BadRow("image_assets: files beside its test patch are fetched from other hosts, which boxes cannot reach")
    instance = text(row, "instance_id")
    usual = f"swebench/sweb.eval.x86_64.{instance.replace('__', '_1776_')}:latest".lower()
    named, rule = image(row, "image", "image_name") or usual, cast(Rule, kind)
    return _task(row, origin, "swe-bench", named=named, script=told(script), parser=PACKAGE + parser, rule=rule)


def _assets(row: Row) -> bool:
    value = table(row, "image_assets") or {}
    return any(value.get(key) for key in ("test_patch", "patch"))


def swe_gym(row: Row, origin: str) -> SetTask:
    instance, repo, base = text(row, "instance_id"), text(row, "repo"), commit(row, "base_commit")
    patch = text(row, "test_patch")
    if repo.lower() == "python/mypy":
        words = re.findall(r"\[case ([^\]]+)\]", patch)
        command = f'pytest -n0 -rA -k "{" or ".join(words)}"'
        if not words or any(not re.fullmatch(r"[\w-]+", word) for word in words):
            raise BadRow("its test patch names no case of mypy's")
    elif repo.lower() in _GYM_COMMANDS:
        command = " ".join([_GYM_COMMANDS[repo.lower()], *directives(patch, repo)])
    else:
        raise BadRow(f"no test command is known for {repo}; there are {', '.join(sorted(_GYM_COMMANDS))}, python/mypy")
    script = evaluation(command, workdir="/testbed", before=CONDA, restore=there_before(patch), base=base, patch=True)
    named = f"xingyaoww/sweb.eval.x86_64.{instance.replace('__', '_s_')}:latest".lower()
    parser = "parse_log_pytest_options" if repo.lower() == "pydantic/pydantic" else "parse_log_pytest"
    return _task(row, origin, "swe-gym", named=named, script=script, parser=PACKAGE + parser, with_patch=True)


def swe_rebench(row: Row, origin: str) -> SetTask:
    config = table(row, "install_config")
    if config is None:
        raise BadRow("column install_config is missing")
    named = image(row, "docker_image", "image_name")
    if not named:
        raise BadRow("columns docker_image and image_name are empty: the set has no image of this task")
    commands, parser = _strings(config.get("test_cmd"), "install_config.test_cmd"), config.get("log_parser")
    if not commands:
        raise BadRow("install_config.test_cmd is missing")
    if not isinstance(parser, str) or not parser:
        raise BadRow("install_config.log_parser is missing")
    patch, repo = text(row, "test_patch"), text(row, "repo")
    second = bool(
        optional(row, "language")
    )  # the set's second edition: any language, no conda, commands that name their files
    if second:
        command = "\n".join(commands)
    else:
        command = " ".join([commands[-1], *directives(patch, repo)])
    workdir = f"/{repo.rpartition('/')[2]}" if second else "/testbed"
    if not re.fullmatch(r"/[\w-][\w.-]*", workdir):
        raise BadRow(f"repo {repo!r} is none of OWNER/NAME")
    before = () if second else (*CONDA, *_strings(config.get("eval_commands"), "install_config.eval_commands"))
    base = commit(row, "base_commit")
    script = evaluation(command, workdir=workdir, before=before, restore=there_before(patch), base=base, patch=True)
    return _task(
        row,
        origin,
        "swe-rebench",
        named=named,
        script=script,
        parser=PACKAGE + parser,
        workdir=workdir,
        with_patch=True,
    )


def _strings(value: Any, name: str) -> list[str]:
    """Commands: one, several, or none."""
    value = [value] if isinstance(value, str) else value
    if not isinstance(value, list | None) or not all(isinstance(one, str) for one in value or ()):
        raise BadRow(f"{name} is neither a command nor a list of them")
    return [one for one in value or () if one.strip()]


def _task(
    row: Row,
    origin: str,
    kind: str,
    *,
    named: str,
    script: str,
    parser: str,
    rule: Rule = "pass_and_fail",
    workdir: str = "/testbed",
    with_patch: bool = False,
) -> SetTask:
    """``named``: the image. ``with_patch``: the script applies ``tests/test.patch``."""
    fail, kept = names(row, "FAIL_TO_PASS"), names(row, "PASS_TO_PASS")
    if not fail:
        raise BadRow("column FAIL_TO_PASS is empty: nothing tells a repair from none")
    solution, tests = text(row, "patch"), text(row, "test_patch")
    score = table(table(row, "meta") or {}, "llm_score") if "meta" in row else None
    level = (score or {}).get("difficulty_score")
    return SetTask(
        name=text(row, "instance_id"),
        instruction=text(row, "problem_statement"),
        published=Published(
            set=kind,
            instance=text(row, "instance_id"),
            origin=origin,
            repo=text(row, "repo"),
            base_commit=commit(row, "base_commit"),
            licence=optional(row, "license_name") or optional(row, "license"),
            language=optional(row, "language") or ("" if kind == "swe-bench" else "python"),
            difficulty=optional(row, "difficulty") or ("" if level is None else str(level)),
            image=named,
            log_parser=parser,
            rule=rule,
        ),
        script=script,
        workdir=workdir,
        fail_to_pass=fail,
        pass_to_pass=kept,
        solution=solution,
        tests={"test.patch": tests.encode()} if with_patch else {},
        test_files=touched(tests),
        source_files=tuple(path for path in touched(solution) if path not in touched(tests)),
    )
