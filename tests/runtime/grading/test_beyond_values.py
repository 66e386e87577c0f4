"""Tests that compare values cost no second run; those that may look at more do."""

import pytest

from runtime.grading.beyond_values import look_beyond_values

PLAIN = [
    "from calc import add\n\ndef test_add():\n    assert add(2, [3]) == 5\n",
    (
        "import math, pytest, calc\n\n@pytest.mark.parametrize('a, b', [(1, 2)])\ndef test_add(a, b):\n"
        "    with pytest.raises(ValueError, match='no'):\n        calc.add(a, None)\n"
        "    assert math.isclose(calc.half(b), 1.0)\n"
    ),
    (
        "import unittest\nimport calc\n\nclass Tests(unittest.TestCase):\n    def test_add(self):\n"
        "        self.assertEqual(calc.table({'a': calc.make(1)})['a'].size(), 1)\n"
        "        assert calc.none() is None\n"
    ),
]
BEYOND = [
    "import warnings, calc\n\ndef test_add():\n    calc.add(1, 2)\n",
    "import calc\n\ndef test_add(capsys):\n    calc.add(1, 2)\n",
    "import calc\n\ndef test_add():\n    items = calc.items()\n    items.append(1)\n    assert calc.items() == []\n",
    "import calc\n\ndef test_add():\n    items = [1]\n    calc.add(items=items)\n    assert items == [1]\n",
    "import calc\n\ndef test_add():\n    inner = [1]\n    calc.add({'a': inner})\n    assert inner == [1]\n",
    "import calc\n\ndef test_add():\n    one = calc.make()\n    assert type(one.plus()) is type(one)\n",
    "import calc\n\ndef test_add():\n    assert calc.add.__doc__\n",
    "import calc\n\nclass TestMine(calc.Case):\n    def test_add(self): pass\n",
    "from unittest import mock\nimport calc\n\ndef test_add(): pass\n",
    "def test_add(:\n",
]


@pytest.mark.parametrize("source", PLAIN)
def test_values(source: str) -> None:
    assert not look_beyond_values([source.encode()], ["calc"])


@pytest.mark.parametrize("source", BEYOND)
def test_beyond(source: str) -> None:
    assert look_beyond_values([source.encode()], ["calc"])
    assert look_beyond_values([PLAIN[0].encode(), source.encode()], ["calc"])


def test_a_module_of_somebody_else_may_tell_anything() -> None:
    assert look_beyond_values([PLAIN[0].encode()], ["other"])
