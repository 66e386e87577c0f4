"""A small line plot in text. Knows nothing of what it plots."""

from __future__ import annotations

from collections.abc import Sequence

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


def smooth(values: Sequence[float], *, width: int) -> list[float]:
    """Centred moving average over ``width`` points, shorter at the ends."""
    half = max(width // 2, 0)
    return [
        sum(window) / len(window) for i in range(len(values)) if (window := values[max(0, i - half) : i + half + 1])
    ]


def line_plot(
    points: Sequence[tuple[int, float]],
    *,
    width: int = 60,
    height: int = 8,
    low: float | None = None,
    high: float | None = None,
) -> list[str]:
    """Lines of text that show ``points`` (step, value) with braille dots, the value axis to the left and the step axis
    below.

    ``width`` and ``height`` are in characters of the plotting area. Returns an empty list for fewer than two points.
    """
    if len(points) < 2:
        return []
    values = [value for _, value in points]
    bottom = min(values) if low is None else low
    top = max(values) if high is None else high
    if top - bottom < 1e-9:
        bottom, top = bottom - 0.5, top + 0.5
    first, last = points[0][0], points[-1][0]
    columns, rows = width * 2, height * 4
    cells = [[0] * width for _ in range(height)]
    previous: tuple[int, int] | None = None
    for step, value in points:
        x = round((step - first) / max(last - first, 1) * (columns - 1))
        clipped = min(max(value, bottom), top)
        y = round((top - clipped) / (top - bottom) * (rows - 1))
        for dot_x, dot_y in _segment(previous or (x, y), (x, y)):
            cells[dot_y // 4][dot_x // 2] |= _DOTS[dot_y % 4][dot_x % 2]
        previous = (x, y)
    lines = []
    for index, row in enumerate(cells):
        label = f"{top:7.2f} " if index == 0 else f"{bottom:7.2f} " if index == height - 1 else " " * 8
        lines.append(f"{label}┤" + "".join(chr(0x2800 + cell) for cell in row))
    lines.append(" " * 8 + "└" + "─" * width)
    lines.append(" " * 9 + f"step {first}".ljust(width - len(str(last))) + str(last))
    return lines


def _segment(start: tuple[int, int], end: tuple[int, int]) -> list[tuple[int, int]]:
    count = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
    return [
        (round(start[0] + (end[0] - start[0]) * i / count), round(start[1] + (end[1] - start[1]) * i / count))
        for i in range(count + 1)
    ]
