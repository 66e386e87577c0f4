"""Says in one line why a test failed, from its exception: both sides of a failing comparison, evaluated once more.

It does not know how tests are run. ``compile`` gives syntax trees without the cost of importing ``ast``.
"""

from __future__ import annotations

import _ast
import linecache
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType, TracebackType
    from typing import Any

MAX_REPR = 200
MAX_FRAMES = 20
_ONLY_AST = 0x400  # ast.PyCF_ONLY_AST
_CLOSING = 4
"""Lines that a function may be longer than its code: brackets that are closed have none."""
_OPERATORS = {
    "NotEq": "!=",
    "Lt": "<",
    "LtE": "<=",
    "Gt": ">",
    "GtE": ">=",
    "Is": "is",
    "IsNot": "is not",
    "In": "in",
    "NotIn": "not in",
}


def describe(error: BaseException, root: str) -> dict[str, Any]:
    """``{"type", "message", "frames"}`` of an exception; see ``report.py``. ``root`` ends without a slash."""
    frames: list[list[Any]] = []
    last: TracebackType | None = None
    step = error.__traceback__
    while step is not None:
        path = step.tb_frame.f_code.co_filename
        if path.startswith(root + os.sep):
            source = linecache.getline(path, step.tb_lineno).strip()
            frames.append([path[len(root) + 1 :], step.tb_lineno, step.tb_frame.f_code.co_name, source[:MAX_REPR]])
        last, step = step, step.tb_next
    if isinstance(error, SyntaxError) and error.filename and error.filename.startswith(root + os.sep):
        frames.append(
            [error.filename[len(root) + 1 :], error.lineno or 0, "<module>", (error.text or "").strip()[:MAX_REPR]]
        )
    message = _text(error)
    if isinstance(error, AssertionError) and last is not None:
        explained = _explain_assert(last.tb_frame, last.tb_lineno)
        if explained:  # pytest's own explanation says the same at length
            message = "" if message.startswith("assert ") else message.partition("\nassert ")[0]
        message = f"{explained}: {message}" if explained and message else explained or message
    return {"type": type(error).__name__, "message": message[: 3 * MAX_REPR], "frames": frames[-MAX_FRAMES:]}


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "<no message>"


def _repr(value: object) -> str:
    try:
        text = repr(value)
    except Exception as error:
        return f"<repr raised {type(error).__name__}>"
    return text if len(text) <= MAX_REPR else text[: MAX_REPR - 3] + "..."


def _explain_assert(frame: FrameType, line: int) -> str:
    found, lines = _statement(frame, line)
    if found is None:
        return ""
    test = found.test
    try:
        if isinstance(test, _ast.Compare) and len(test.ops) == 1:
            left, right = _evaluate(test.left, frame), _evaluate(test.comparators[0], frame)
            operator = type(test.ops[0]).__name__
            want = _repr(right) if operator == "Eq" else f"{_OPERATORS[operator]} {_repr(right)}"
            return f"{_segment(test.left, lines)} gave {_repr(left)}, want {want}"
        if isinstance(test, _ast.UnaryOp) and isinstance(test.op, _ast.Not):
            return f"{_segment(test.operand, lines)} gave {_repr(_evaluate(test.operand, frame))}, want a false value"
        return f"{_segment(test, lines)} gave {_repr(_evaluate(test, frame))}, want a true value"
    except Exception as error:  # evaluating again may fail where the first time did not
        return f"{_segment(test, lines)} did not hold ({type(error).__name__} when evaluated again)"


def _statement(frame: FrameType, line: int) -> tuple[Any, list[str]]:
    """The assert statement that covers ``line``, and the lines that its places count in. Only the function's own lines
    are parsed where they can be: a large file takes longer than most tests."""
    code = frame.f_code
    lines = linecache.getlines(code.co_filename)
    if not code.co_name.startswith("<"):
        first = code.co_firstlineno
        last = max([line, *(number for _, _, number in code.co_lines() if number)])
        # The line in front makes an indented function parse without changing a column inside it.
        front = "if True:\n" if lines[first - 1 : first] and lines[first - 1][:1] in (" ", "\t") else "\n"
        for end in range(last, last + _CLOSING):
            part = front + "".join(lines[first - 1 : end])
            try:
                return _find_assert(compile(part, "<assert>", "exec", _ONLY_AST), line - first + 2), part.splitlines()
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                continue
    source = "".join(lines)
    try:
        return _find_assert(compile(source, code.co_filename, "exec", _ONLY_AST), line), source.splitlines()
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None, []


def _find_assert(node: Any, line: int) -> Any:
    """The innermost assert statement that covers ``line``."""
    found = None
    stack = [node]
    while stack:
        node = stack.pop()
        if isinstance(node, _ast.Assert) and node.lineno <= line <= (node.end_lineno or node.lineno):
            found = node
        for name in node._fields:
            value = getattr(node, name, None)
            if isinstance(value, list):
                stack.extend(
                    item for item in value if isinstance(item, _ast.stmt | _ast.excepthandler | _ast.match_case)
                )
    return found


def _evaluate(node: Any, frame: FrameType) -> object:
    code = compile(_ast.Expression(node), "<assert>", "eval")
    return eval(code, frame.f_globals, frame.f_locals)


def _segment(node: Any, lines: list[str]) -> str:
    """Source text of a node on one line, at most ``MAX_REPR`` characters. Column offsets count UTF-8 bytes."""
    rows = [row.encode() for row in lines[node.lineno - 1 : node.end_lineno]]
    rows[-1] = rows[-1][: node.end_col_offset]
    rows[0] = rows[0][node.col_offset :]
    text = " ".join(row.decode(errors="replace").strip() for row in rows)
    return text if len(text) <= MAX_REPR else text[: MAX_REPR - 3] + "..."
