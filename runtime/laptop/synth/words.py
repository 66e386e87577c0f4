"""The vocabulary of generated repositories, divided so that no noun and no number of one split occurs in another.

Knows words only. Phrases (how a comment says what a line does) are language, not names: they are shared by all splits.
"""

from __future__ import annotations

import random
from typing import Final, Literal

Split = Literal["train", "held_out", "demonstrations"]

NOUNS: Final = """
acre album alley amber anchor angle apple apron arch armor arrow atlas attic award badge bagel baker balance ballot
bamboo banner barrel basin basket batch beacon beam bean bench berry blade blanket block bolt bonus booth border
bottle boulder branch bread brick bridge broom brush bucket budget bundle bureau button cabin cable camera candle
canoe canvas cape carbon cargo carpet carton castle cedar cell cellar chalk channel charge chart chimney circle clay
cliff clock cloth cloud coach coal coast coffee coin column comet copper coral corner cotton counter courier cradle
crane crate credit creek crop crown crystal curtain cushion cycle dagger dairy deck delta deposit desert desk
diamond dock dome donor draft drain drawer drum dune easel echo edge elbow elm engine envelope fabric factor falcon
farm feather fence ferry field flag flame flask fleet flint floor flour flute folder forest forge fork fossil frame
freight fruit fuel furnace gallery garden garment gate gear gem glacier glass globe glove grain granite grape gravel
grid grove guard guitar hammer harbor harvest hatch hedge helmet herb hinge hive hollow honey hook horn hostel hotel
hour index ink inlet insect invoice iron island ivory jacket jar jewel journal jug jungle kernel kettle kiosk
kitchen kite ladder lagoon lake lamp lane lantern larch lawn layer leaf ledger lemon lens lever library lily limb
linen locker loft loom lotus lumber lunch magnet manor maple marble margin market marsh mask mast meadow medal melon
menu mesa metal meter mill mineral mirror module monitor moss motor mound museum nail nectar needle nest net niche
north notebook nozzle oak oasis oat ocean olive onion orbit orchard organ otter outlet oven owl oxygen oyster paddle
palace panel paper parcel park pasture patch path pear pebble pedal pencil pepper permit petal piano pier pillar
pillow pilot pine pipe pitcher plain planet plank plaza plum pocket poem pollen pond porch portal poster pottery
pouch powder prairie prism profit pump puppet quarry quartz quilt quota raft rail ranch razor recipe reef relay rent
reserve resin ribbon rice ridge ring rink river robe rocket roof rope rose rotor route rover ruby rudder saddle sail
salad salt sand satin scale scarf school scope seal season seed shaft shed shelf shell shield shore shovel silk silo
silver sketch slate sled slope soap soil spark spice spindle spiral sponge spoon spring spruce stack stage stairs
stamp statue steam stem stone storage storm straw stream street stump sugar summit sunset surplus swamp switch table
tablet tailor tanker tape tariff tavern temple tent terrace thread throne ticket tide tile timber toll tool torch
tower trail train tray trench tribute truck trumpet trunk tunnel turbine tutor twig uniform union valley valve vault
vehicle velvet vendor vessel village vine violin visit volume voyage wagon wallet walnut warden water wax weight
well wharf wheat wheel whistle willow window wing winter wire wool yacht yard yarn zone
""".split()  # noqa: SIM905 - six hundred words read better as text
"""English nouns; none is a keyword, a builtin or a module of the standard library."""

SHARE: Final[dict[Split, tuple[int, int]]] = {"train": (0, 50), "demonstrations": (50, 75), "held_out": (75, 100)}
"""Which percentiles of a fixed shuffle belong to which split; also used for structures."""

RESIDUE: Final[dict[Split, int]] = {"train": 1, "demonstrations": 4, "held_out": 7}
"""A split's numbers are 9k + residue, so that a neighbour (what an off-by-one bug makes of it) is in no other split."""

PHRASES: Final[dict[str, str]] = {
    "+": "plus",
    "-": "minus",
    "*": "times",
    "//": "split",
    ">=": "at least",
    ">": "above",
    "<=": "at most",
    "<": "below",
    "set": "if set",
    "unset": "unless set",
    "min": "smaller",
    "max": "larger",
}
"""What a comment says of a line, by what the line does."""


def nouns(split: Split) -> list[str]:
    """The nouns of one split, in a fixed order."""
    shuffled = sorted(set(NOUNS))
    random.Random("nouns").shuffle(shuffled)
    low, high = SHARE[split]
    return shuffled[len(shuffled) * low // 100 : len(shuffled) * high // 100]


def numbers(split: Split, below: int = 120) -> list[int]:
    """The whole numbers of one split that are smaller than ``below``."""
    return list(range(RESIDUE[split], below, 9))
