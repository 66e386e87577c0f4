"""Tests that compare values cost no second run; those that may look at more do."""

# ruff: noqa: E501 - programs

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
    "import calc\n\ndef test_add():\n    one, two = calc.add(1, 2), calc.add(3, 4)\n    for n in (1, 2):\n        assert calc.add(n, n) == 2 * n\n",
    "import calc\n\ndef test_add():\n    one = calc.make(1)\n    one.push(2)\n    assert one.top() == 2\n    assert isinstance(one.size, int)\n",
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
    "import pytest, calc\n\n@pytest.fixture\ndef out(capsys):\n    return capsys\n\ndef test_add(out):\n    calc.add(1, 2)\n",
    "import calc\n\ndef test_add(request):\n    request.getfixturevalue('capsys')\n",
    "import calc\n\ndef test_add():\n    items = calc.items()\n    items *= 2\n    assert calc.items() == []\n",
    "import random, calc\n\ndef test_add():\n    random.shuffle(calc.items())\n",
    "from calc import items\n\ndef test_add():\n    calc = items()\n    calc.append(1)\n    assert items() == []\n",
    "import calc\n\ndef test_add():\n    for one in calc.items():\n        calc.remove(one)\n    assert calc.items() == []\n",
    "import calc\n\ndef test_add():\n    [calc.remove(one) for one in calc.items()]\n    assert calc.items() == []\n",
    "import calc\n\ndef test_add():\n    items = calc.items()\n    calc.add(1)\n    assert items == []\n",
    "import calc\n\ndef test_add():\n    shop = calc.Shop()\n    items = shop.items()\n    assert shop.sell(1)\n    assert items == []\n",
    "from collections.abc import Sized\nimport calc\n\ndef test_add():\n    assert isinstance(calc.make(), Sized)\n",
    "import typing, calc\n\ndef test_add():\n    assert isinstance(calc.make(), typing.Sized)\n",
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
