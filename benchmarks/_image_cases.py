"""Tasks of ``verdicts.py`` made over: in boxes of an image, and with tests for the image's own Python.

It does not know how they are judged.
"""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from pathlib import Path

from runtime.task import Task, load_task
from tests.attacks.informed import Kind

GROUP = "Tests"
"""The class that functions of tests become methods of."""


def as_unittest(source: str) -> str:
    """The same tests for ``unittest``: functions as methods of one class, classes of tests as its kind."""
    tree, methods = ast.parse(source), list[ast.stmt]()
    rest: list[ast.stmt] = [ast.Import([ast.alias("unittest")])]
    base = ast.parse("unittest.TestCase", mode="eval").body
    for part in tree.body:
        if isinstance(part, ast.FunctionDef) and part.name.startswith("test"):
            part.args.args.insert(0, ast.arg("self"))
            methods.append(part)
            continue
        if isinstance(part, ast.ClassDef) and part.name.startswith("Test"):
            part.bases = [base]
        rest.append(part)
    if methods:
        rest.append(
            ast.ClassDef(name=GROUP, bases=[base], keywords=[], body=methods, decorator_list=[])  # type: ignore[call-arg, unused-ignore]
        )
    return ast.unparse(ast.fix_missing_locations(ast.Module(rest, type_ignores=[]))) + "\n"


def kind_for_unittest(kind: Kind) -> Kind:
    return replace(
        kind,
        visible=None if kind.visible is None else as_unittest(kind.visible),
        tests=as_unittest(kind.tests),
        prefix=kind.prefix or f"{GROUP}::",
    )


def made_over(task: Path, image: str | None, *, unittest: bool = False) -> Task:
    """Change the task in its folder. image: what its boxes are made of."""
    settings = task / "task.toml"
    text = settings.read_text()
    if unittest:
        for path in (*task.glob("tests/files/**/test_*.py"), *task.glob("environment/repo/**/test_*.py")):
            if "unittest" not in path.read_text():
                path.write_text(as_unittest(path.read_text()))
        text = re.sub(r"\.py::(test_)", rf".py::{GROUP}::\1", text)
        text = re.sub(r"(?m)^\s*(runner|image) = .*\n", "", text)
        text = text.replace("[metadata.liverl]\n", '[metadata.liverl]\nrunner = "unittest"\n')
    if image is not None:
        # Without a Dockerfile the files of environment/ are put into the image's work directory.
        repository = task / "environment" / "repo"
        (task / "environment" / "Dockerfile").unlink(missing_ok=True)
        for path in list(repository.iterdir()):
            path.rename(task / "environment" / path.name)
        repository.rmdir()
        named = f'docker_image = "{image}"\n'
        text = (
            text.replace("[environment]\n", f"[environment]\n{named}")
            if "[environment]\n" in text
            else f"[environment]\n{named}{text}"
        )
    settings.write_text(text)
    return load_task(task)
