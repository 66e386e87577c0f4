"""The README's picture is what its script draws: words stay in their boxes, arrows go from edge to edge."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from scripts import picture

LETTER_PX = 6.6
"""A letter of a line in DejaVu Sans, the widest of the picture's fonts; in a title, half more."""


def test_the_committed_picture_is_the_scripts() -> None:
    assert picture.FILE.read_text() == picture.draw(), "`make golden` draws it again"
    assert "docs/system.svg" in (picture.FILE.parent.parent / "README.md").read_text()


@pytest.mark.parametrize("box", picture.BOXES, ids=lambda box: box.title)
def test_words_stay_in_their_box(box: picture.Box) -> None:
    assert max(len(line) for line in box.lines) * LETTER_PX < picture.COLUMN
    assert len(box.title) * LETTER_PX * 1.5 < picture.COLUMN
    assert 22 + picture.LINE_PX * len(box.lines) < box.height


def test_each_arrow_starts_and_ends_at_an_edge() -> None:
    arrows = [one.get("d", "") for one in ElementTree.fromstring(picture.draw()).iter() if one.get("class") == "arrow"]
    assert len(arrows) > len(picture.BOXES)
    touched = set()
    for path in arrows:
        points = [(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", path)]
        for (x, y), (other_x, other_y) in pairwise(points):
            assert x == other_x or y == other_y, f"{path} is not level or upright"
        for point in (points[0], points[-1]):
            found = {box.title for box in picture.BOXES if on_edge(box, point)}
            assert len(found) == 1 or point[1] == picture.PANEL[1], path
            touched |= found
    assert touched == {box.title for box in picture.BOXES}


def on_edge(box: picture.Box, point: picture.Point) -> bool:
    x, y = point
    left, right = box.at("left")[0], box.at("right")[0]
    upper, lower = box.at("top")[1], box.at("bottom")[1]
    return (x in (left, right) and upper <= y <= lower) or (y in (upper, lower) and left <= x <= right)
