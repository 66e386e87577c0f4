"""The tools of the ``free`` set: read, edit and write files, run commands, run the tests, submit.

For models that can write code. Standard library only: runs inside sandboxes. Knows no models and no HTTP.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import tempfile

if __package__:
    from .meant import meant
    from .own_tests import ALL_PASS, OwnTests, cut, first_look, outcome
    from .replace import NoPlace, elsewhere, place
else:
    from meant import meant  # type: ignore[import-not-found,no-redef]
    from own_tests import ALL_PASS, OwnTests, cut, first_look, outcome  # type: ignore[import-not-found,no-redef]
    from replace import NoPlace, elsewhere, place  # type: ignore[import-not-found,no-redef]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

COMMAND_SEC = 60.0
_SEARCHED = 1 << 20
"""Larger files are not searched for a text that is in another one; bytes."""
_FILES = 400


def _tool(name: str, description: str, **parameters: str | dict[str, str]) -> dict[str, Any]:
    """``parameters``: what a text is, which must be there, or the schema of what may be left out."""
    properties = {
        key: {"type": "string", "description": said} if isinstance(said, str) else said
        for key, said in parameters.items()
    }
    required = [key for key, said in parameters.items() if isinstance(said, str)]
    schema = {"type": "object", "properties": properties, "required": required}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


SCHEMAS = [
    _tool("read_file", "Show a file with line numbers.", path="Path below the work directory."),
    _tool(
        "edit_file",
        "Replace one exact occurrence of a text in a file.",
        path="Path below the work directory.",
        line={"type": "integer", "description": "The line in which old begins, if old occurs more than once."},
        old="The text to replace.",
        new="The text to put there.",
    ),
    _tool("write_file", "Write a whole file.", path="Path below the work directory.", content="The new content."),
    _tool("run_command", "Run a bash command in the work directory.", command="The command."),
    _tool("submit", "Finish: the work directory is graded as it is."),
]


EDITING = ("edit_file", "write_file")
DONE = "wrote "
UNDONE = "The edit was put back."
TRIED = "The same was tried before."
SAME = "error: the new text is the old one"
NAMES = tuple(tool["function"]["name"] for tool in SCHEMAS)
REHEARSAL: tuple[tuple[str, dict[str, str]], ...] = (("run_command", {"command": "true"}), ("submit", {}))


class FreeTools:
    """Free-form tools on one work directory; see ``runtime.scaffolds.shell.agent.Tools``. Errors are text too."""

    def __init__(self, root: str, settings: dict[str, Any]) -> None:
        self._root = root
        self._max_edits: int = settings["max_edits"]
        self._max_chars: int = settings["max_observation"]
        self._look, self._test = settings["first_look"], settings["test_after_edit"]
        self._undo: bool = settings.get("undo_failed_edits", False)
        self._closest = settings.get("edit_match") == "closest"
        self._sources: list[str] = list(settings.get("sources") or ())[:_FILES]
        # A task whose tests are a script alone names none that could be run here.
        named = settings["ids"] is not None and (self._look is not None or self._test)
        self._tests = _own_tests(root, settings) if named else None
        self._edited: dict[str, bytes] = {}
        self._said: dict[frozenset[tuple[str, bytes]], str] | None = {}
        self.edits = 0

    @property
    def exhausted(self) -> bool:
        """Whether the budget of edits is spent."""
        return self.edits >= self._max_edits

    def opening(self) -> str:
        if self._look is None:
            return ""
        if self._tests is None:
            return "(This task names no tests that could be run for you.)"
        return first_look(self._tests, functions=self._look["functions"], max_chars=self._look["max_chars"])

    def call(self, name: str, arguments: str) -> str:
        if name not in NAMES:
            return f"error: no tool {name}"
        try:
            parsed = json.loads(arguments or "{}")
        except ValueError as error:
            return f"error: the arguments are not JSON: {error}"
        if not isinstance(parsed, dict):
            return "error: the arguments are no object"
        if self._closest and name == "edit_file":
            parsed = self._meant(parsed)
        before = self._before(parsed) if self._undo and name in EDITING else None
        try:
            text = getattr(self, f"_{name}")(**parsed)
        except TypeError as error:
            text = f"error: wrong arguments: {error}"
        except (OSError, ValueError) as error:  # the latter of paths and commands with a NUL, or half a character
            text = f"error: {error}"
        text = cut(str(text), self._max_chars)
        if name in EDITING and text.startswith(DONE):
            self.edits += 1
            if self._test and self._tests is not None:
                after = {**self._edited, **self._content(self._path(str(parsed["path"])))}
                said = self._outcome(after)
                text = f"{text}\n{said}"
                if before is not None and said != ALL_PASS:
                    self._put_back(*before)
                    text += f"\n{UNDONE}"
                else:
                    self._edited = after
        elif name == "run_command":
            self._said = None  # commands, and what they leave running, change files that nobody tells of
        return text

    def _outcome(self, edited: dict[str, bytes]) -> str:
        """What the tests say of a work directory with these files edited. Small models repeat most edits that failed:
        what is the same is not run again."""
        known, state = self._said, frozenset(edited.items())
        if known is not None and state in known:
            return known[state] if known[state] == ALL_PASS else f"{known[state]}\n{TRIED}"
        assert self._tests is not None
        said = outcome(self._tests.run(trace=False))
        if known is not None:
            known[state] = said
        return said

    def _content(self, path: str) -> dict[str, bytes]:
        path = os.path.realpath(path)
        try:
            if os.path.isfile(path):  # a device or a pipe may be written to, and read for ever
                with open(path, "rb") as file:
                    return {path: hashlib.sha256(file.read()).digest()}
        except OSError:
            pass
        self._said = None  # what cannot be looked at may be anything
        return {}

    def _before(self, arguments: dict[str, Any]) -> tuple[str, bytes | None]:
        """The file that a call is about, and what is in it; None where there is none yet."""
        path = self._path(str(arguments.get("path", "")))
        try:
            with open(path, "rb") as file:
                return path, file.read()
        except OSError:
            return path, None

    def _put_back(self, path: str, content: bytes | None) -> None:
        if content is None:
            os.unlink(path)
            return
        with open(path, "wb") as file:
            file.write(content)

    def _path(self, path: str) -> str:
        return os.path.join(self._root, path)

    def _read_file(self, path: str) -> str:
        with open(self._path(path), encoding="utf-8") as file:
            return "".join(f"{number:5d}  {line}" for number, line in enumerate(file, start=1))

    def _write_file(self, path: str, content: str) -> str:
        os.makedirs(os.path.dirname(self._path(path)) or ".", exist_ok=True)
        with open(self._path(path), "w", encoding="utf-8", newline="") as file:
            file.write(content)
        return f"{DONE}{path}"

    def _edit_file(self, path: str, old: str, new: str, line: int | str | None = None) -> str:
        with open(self._path(path), encoding="utf-8", newline="") as file:
            text = file.read()
        # Files of Windows are shown, and edited, with plain line ends, and keep their own.
        windows = text.count("\r\n") == text.count("\n") > 0
        if windows:
            text, old, new = (part.replace("\r\n", "\n") for part in (text, old, new))
        if old == new:
            return SAME
        try:
            at = place(text, old, None if line is None or line == "" else int(line))
        except NoPlace as why:
            return f"error: {path}: {why}{elsewhere(old, self._other_sources(path)) if why.nowhere else ''}"
        except (ValueError, OverflowError):
            return f"error: line must be a number, not {line!r}"
        text = text[:at] + new + text[at + len(old) :]
        return self._write_file(path, text.replace("\n", "\r\n") if windows else text)

    def _meant(self, call: dict[str, Any]) -> dict[str, Any]:
        """The same call, about the text that is most probably meant."""
        path, old, new, line = (call.get(key) for key in ("path", "old", "new", "line"))
        if not (isinstance(path, str) and isinstance(old, str) and isinstance(new, str)) or old == new:
            return call
        try:
            start = None if line is None or line == "" else int(line)
        except (TypeError, ValueError, OverflowError):
            return call
        old, new = old.replace("\r\n", "\n"), new.replace("\r\n", "\n")
        text = next((there for _, there in self._texts([path])), None)
        found = meant(path, text, old, new, start, self._other_sources(path))
        if found is None:
            return call
        return {**call, "path": found[0], "old": found[1], "line": found[2]}

    def _other_sources(self, path: str) -> Iterator[tuple[str, str]]:
        """(Path, text) of the files under repair, but for this one."""
        try:
            named = os.path.realpath(self._path(path))
        except ValueError:  # a NUL
            return
        others = [other for other in self._sources if os.path.realpath(self._path(other)) != named]
        yield from self._texts(others)

    def _texts(self, paths: list[str]) -> Iterator[tuple[str, str]]:
        """(Path, text) of those that can be read, and are not too long to be searched."""
        for path in paths:
            try:
                full = self._path(path)
                if not os.path.isfile(full) or os.path.getsize(full) > _SEARCHED:
                    continue
                with open(full, encoding="utf-8", newline="") as file:
                    yield path, file.read().replace("\r\n", "\n")
            except (OSError, ValueError):  # the latter of texts in another encoding, and paths with a NUL
                continue

    def _run_command(self, command: str) -> str:
        # A file, not a pipe: a background child that keeps the output open must not hold the agent up.
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(
                ["/bin/bash", "-c", command],
                cwd=self._root,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                ended = f"exit code {process.wait(COMMAND_SEC)}"
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                ended = f"killed after {COMMAND_SEC:.0f} seconds"
            output.seek(0)
            text = output.read().decode(errors="replace")
        return f"{text}\n[{ended}]"


def _own_tests(root: str, settings: dict[str, Any]) -> OwnTests:
    return OwnTests(
        root,
        runner=settings["runner"],
        ids=settings["ids"],
        sources=settings["sources"],
        python_path=settings["python_path"],
    )


open_tools = FreeTools
