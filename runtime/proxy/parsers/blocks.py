"""Replies in which a tool call is a block of text between markers, and so is each of its arguments, without escapes.

An argument may hold the markers itself (a file about tool calls). So a marker counts as one only where the rest of the
reply can be read as well: the first reading without anything left over is taken. Knows no particular markers.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from runtime.proxy.chat import ParsedReply
from runtime.proxy.messages import ToolCall
from runtime.proxy.parsers.base import ToolSchemas, new_call_id
from runtime.proxy.parsers.values import Parameters, json_text

_MAX_STEPS = 20_000
"""A reply that repeats its markers for ever is read from left to right when this many attempts have failed."""
_SPACE = re.compile(r"\s*")


@dataclass(frozen=True)
class Markers:
    """``call`` and ``argument`` begin with a name each (the first group that matched), ``argument_end`` and
    ``call_end`` end them. ``attempt`` finds what is meant for a call even where it is none.
    """

    call: re.Pattern[str]
    argument: re.Pattern[str]
    argument_end: re.Pattern[str]
    call_end: re.Pattern[str]
    attempt: re.Pattern[str]


class _Piece(NamedTuple):
    """A call and where it lies; its arguments as (name, start, end)."""

    start: int
    end: int
    name: str
    arguments: tuple[tuple[str, int, int], ...]


@dataclass(slots=True)
class _State:
    """How far a reading has come: between calls (``name`` None), between arguments, or (``key``) in an argument."""

    position: int
    done: tuple[_Piece, ...] = ()
    start: int = 0
    name: str | None = None
    arguments: tuple[tuple[str, int, int], ...] = ()
    key: str | None = None

    @property
    def place(self) -> tuple[int, bool, bool]:
        """Whether the rest can be read depends on this alone."""
        return self.position, self.name is not None, self.key is not None


class _Reader:
    def __init__(self, text: str, markers: Markers) -> None:
        self.text = text
        self.markers = markers
        self._steps = 0
        self._seen: set[tuple[int, bool, bool]] = set()
        self._attempts = [found.start() for found in markers.attempt.finditer(text)]
        self._calls = list(markers.call.finditer(text))
        self._call_starts = [found.start() for found in self._calls]
        self._call_ends = [found.start() for found in markers.call_end.finditer(text)]
        self._begun = [found.start() for found in markers.argument.finditer(text)]
        ends = list(markers.argument_end.finditer(text))
        self._ended = [found.start() for found in ends]
        self._may_end = [found.end() if self._goes_on(found.end()) else None for found in ends]

    def whole(self) -> tuple[_Piece, ...] | None:
        """The calls of the first reading in which no marker is left over between them."""
        stack = [_State(0)]
        while stack:
            state = stack.pop()
            if state.place in self._seen:
                continue
            self._seen.add(state.place)
            if state.name is None:
                index = bisect_left(self._call_starts, state.position)
                found = self._calls[index] if index < len(self._calls) else None
                if self._left_over(state.position, found.start() if found else len(self.text)):
                    continue
                if found is None:
                    return state.done
                stack.append(_State(found.end(), state.done, found.start(), _name(found)))
                continue
            following = list(self._following(state))
            self._steps += 1 + len(following)
            if self._steps > _MAX_STEPS:
                return None
            stack.extend(reversed(following))
        return None

    def one(self, found: re.Match[str]) -> _Piece | None:
        """The call that begins here, every argument ending as soon as it can."""
        state = _State(found.end(), (), found.start(), _name(found))
        while not state.done:
            following = next(self._following(state), None)
            if following is None:
                return None
            state = following
        return state.done[0]

    def _following(self, state: _State) -> Iterator[_State]:
        """What may come next inside of a call, the most probable first."""
        text, markers = self.text, self.markers
        if state.key is not None:
            for end, after in self._ends(state.position):
                argument = (state.key, state.position, end)
                yield _State(after, state.done, state.start, state.name, (*state.arguments, argument))
            return
        position = _skip_space(text, state.position)
        if (found := markers.argument.match(text, position)) is not None:
            yield _State(found.end(), state.done, state.start, state.name, state.arguments, _name(found))
        elif (found := markers.call_end.match(text, position)) is not None:
            assert state.name is not None
            piece = _Piece(state.start, found.end(), state.name, state.arguments)
            yield _State(found.end(), (*state.done, piece))

    def _ends(self, position: int) -> Iterator[tuple[int, int]]:
        """Where an argument may end and what follows begin: behind which stands what may stand behind an argument.

        First those that are not the partners of a beginning inside of the argument.
        """
        first, begun = bisect_left(self._ended, position), bisect_left(self._begun, position)
        partners: list[tuple[int, int]] = []
        for index in range(first, len(self._ended)):
            start, end = self._ended[index], self._may_end[index]
            if end is None:
                continue
            if bisect_left(self._begun, start) - begun > index - first:
                partners.append((start, end))
            else:
                yield start, end
        yield from partners

    def _goes_on(self, position: int) -> bool:
        position = _skip_space(self.text, position)
        return bool(
            self.markers.argument.match(self.text, position) or self.markers.call_end.match(self.text, position)
        )

    def _left_over(self, start: int, end: int) -> bool:
        return any(
            bisect_left(starts, start) < bisect_left(starts, end)
            for starts in (self._attempts, self._ended, self._call_ends)
        )


def parse_blocks(text: str, tools: ToolSchemas, markers: Markers) -> ParsedReply:
    """Text around the calls is content; so is what is meant for a call and cannot be read, which is ``unread`` too."""
    if markers.attempt.search(text) is None:
        return ParsedReply(text)
    reader = _Reader(text, markers)
    pieces: list[_Piece] = []
    unread: list[str] = []
    found = reader.whole()
    if found is not None:
        pieces.extend(found)
    else:
        position = 0
        while (begin := markers.attempt.search(text, position)) is not None:
            call = markers.call.match(text, begin.start())
            piece = None if call is None else reader.one(call)
            if piece is None:
                position = _end_of_attempt(text, begin, markers)
                unread.append(text[begin.start() : position])
            else:
                pieces.append(piece)
                position = piece.end
    content: list[str] = []
    position = 0
    for piece in pieces:
        content.append(text[position : piece.start])
        position = piece.end
    content.append(text[position:])
    said = "".join(content)
    return ParsedReply(
        # White space between text and calls is glue of the format, not something the model says.
        said.strip() if pieces else said,
        tuple(_call(piece, text, tools) for piece in pieces),
        status="ill_formed" if unread else "ok",
        unread=tuple(unread),
    )


def _end_of_attempt(text: str, begin: re.Match[str], markers: Markers) -> int:
    """An attempt that cannot be read goes as far as the next end of a call, or to the next attempt."""
    ends = [len(text)]
    if (end := markers.call_end.search(text, begin.end())) is not None:
        ends.append(end.end())
    if (again := markers.attempt.search(text, begin.end())) is not None:
        ends.append(again.start())
    return min(ends)


def _call(piece: _Piece, text: str, tools: ToolSchemas) -> ToolCall:
    parameters = Parameters(tools, piece.name)
    arguments = {key: parameters.read(key, text[start:end]) for key, start, end in piece.arguments}
    return ToolCall(new_call_id(), piece.name, json_text(arguments))


def _name(found: re.Match[str]) -> str:
    return found[1].strip()


def _skip_space(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return position if found is None else found.end()
