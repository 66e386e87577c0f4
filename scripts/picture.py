"""Draws ``docs/system.svg``, the README's picture of the system: boxes on a grid, arrows from edge to edge.

    python -m scripts.picture

Knows no layout algorithm and imports nothing of LiveRL: what the picture says is said here, in words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

FILE = Path(__file__).resolve().parent.parent / "docs" / "system.svg"
WIDTH, HEIGHT = 1100, 632
MARGIN, COLUMN, GAP = 34, 186, 96
"""Four columns with room for a label between them."""
TITLE_PX, TEXT_PX, LINE_PX = 15.5, 12.5, 17
STACK_PX = 6
"""How far the card behind looks out, where there are many of a thing."""

# Light and dark; the picture brings its own background, so it reads well on any page.
COLOURS = {
    "page": ("#ffffff", "#0d1117"),
    "panel": ("#f6f8fa", "#161b22"),
    "edge": ("#d0d7de", "#444c56"),
    "text": ("#1f2328", "#e6edf3"),
    "quiet": ("#57606a", "#9da7b3"),
    "ours": ("#ddf4ff", "#12294a"),
    "ours-edge": ("#0969da", "#58a6ff"),
    "upstream": ("#dafbe1", "#12301d"),
    "upstream-edge": ("#1a7f37", "#3fb950"),
    "sealed": ("#fff1e5", "#3a2212"),
    "sealed-edge": ("#bc4c00", "#f0883e"),
}
FILLED = ("page", "panel", "text", "quiet", "ours", "upstream", "sealed")
Point = tuple[float, float]


@dataclass(frozen=True)
class Box:
    column: int
    top: float
    height: float
    kind: str
    title: str
    lines: tuple[str, ...]
    many: bool = False

    @property
    def left(self) -> float:
        return MARGIN + self.column * (COLUMN + GAP)

    def at(self, side: str, share: float = 0.5) -> Point:
        """A point on an edge, ``share`` of the way along it; of the card behind where that is what one sees."""
        behind = STACK_PX if self.many else 0
        x, y = self.left + share * COLUMN, self.top + share * self.height
        return {
            "left": (self.left, y),
            "right": (self.left + COLUMN + behind, y),
            "top": (x, self.top - behind),
            "bottom": (x, self.top + self.height),
        }[side]


def compiling(column: int, title: str, *lines: str) -> Box:
    return Box(column, 28, 92, "ours", title, lines)


SPEC = compiling(0, "Spec", "one Jsonnet file:", "all that a person edits")
COMPILE = compiling(1, "Compile", "every mistake at once,", "with file and line")
BUNDLE = compiling(2, "Bundle", "files to review: verl,", "vLLM, Kubernetes …")
LAUNCH = compiling(3, "Launch", "here, Docker, Kubernetes,", "SkyPilot, Ray")

UPPER, LOWER = 268, 484
TRAINER = Box(0, UPPER, 108, "upstream", "Trainer", ("verl: GRPO, GSPO or PPO", "on PyTorch and Ray"))
LOOP = Box(
    1, UPPER, 108, "ours", "Agent-loop workers", ("run trials in groups,", "turn verdicts", "into rewards"), many=True
)
AGENT = Box(
    2,
    UPPER,
    108,
    "sealed",
    "Agent's sandbox",
    ("reads, edits and tests", "a repository; reaches", "the proxy only"),
    many=True,
)
VERIFIER = Box(
    3,
    UPPER,
    108,
    "sealed",
    "Verifier's sandbox",
    ("a fresh repository,", "and the tests that", "the agent never saw"),
    many=True,
)
REPLICAS = Box(
    0,
    LOWER,
    108,
    "upstream",
    "Inference replicas",
    ("vLLM on GPUs; on a CPU,", "a small engine", "of LiveRL's"),
    many=True,
)
BALANCER = Box(
    1, LOWER, 108, "ours", "Balancer", ("a session stays with", "one replica; a new one", "goes to the least busy")
)
PROXY = Box(2, LOWER, 108, "ours", "Proxy", ("owns the tokens: what", "was sampled is what", "is trained on"))
BOXES = (SPEC, COMPILE, BUNDLE, LAUNCH, TRAINER, LOOP, AGENT, VERIFIER, REPLICAS, BALANCER, PROXY)

PANEL = (MARGIN - 18, 166.0, WIDTH - 2 * (MARGIN - 18), 448.0)
"""The run: left, top, width, height."""


def text(at: Point, words: str, *, size: float = TEXT_PX, kind: str = "quiet", anchor: str = "middle") -> str:
    weight = ' font-weight="600"' if size == TITLE_PX else ""
    return (
        f'<text class="{kind}" x="{at[0]:g}" y="{at[1]:g}" font-size="{size:g}" text-anchor="{anchor}"{weight}>'
        f"{escape(words)}</text>"
    )


def rectangle(left: float, top: float, width: float, height: float, kind: str, *, radius: int = 10) -> str:
    return (
        f'<rect class="{kind}" x="{left:g}" y="{top:g}" width="{width:g}" height="{height:g}" rx="{radius}" '
        f'stroke-width="1.5"/>'
    )


def draw_box(box: Box) -> list[str]:
    drawn = []
    if box.many:
        drawn.append(rectangle(box.left + STACK_PX, box.top - STACK_PX, COLUMN, box.height, box.kind))
    drawn.append(rectangle(box.left, box.top, COLUMN, box.height, box.kind))
    middle = box.left + COLUMN / 2
    # Title and lines as one block, in the middle of the box.
    first = box.top + (box.height - 22 - LINE_PX * len(box.lines)) / 2 + 15
    drawn.append(text((middle, first), box.title, size=TITLE_PX, kind="text"))
    drawn += [text((middle, first + 22 + LINE_PX * row), line) for row, line in enumerate(box.lines)]
    return drawn


def arrow(*points: Point, both: bool = False) -> str:
    """Through the points; the head ends at the last one."""
    path = "M" + " L".join(f"{x:g} {y:g}" for x, y in points)
    start = ' marker-start="url(#head)"' if both else ""
    return f'<path class="arrow" d="{path}" marker-end="url(#head)"{start}/>'


def labelled(start: Point, end: Point, *lines: str, below: bool = False, both: bool = False) -> list[str]:
    """A level arrow with words above or below its middle."""
    middle = (start[0] + end[0]) / 2
    first = start[1] + 19 if below else start[1] - 9 - (LINE_PX - 2) * (len(lines) - 1)
    rows = [text((middle, first + (LINE_PX - 2) * row), line) for row, line in enumerate(lines)]
    return [arrow(start, end, both=both), *rows]


def beside(at: Point, lines: Sequence[str]) -> list[str]:
    """Words to the right of an upright arrow."""
    return [text((at[0] + 10, at[1] + LINE_PX * row), line, anchor="start") for row, line in enumerate(lines)]


def draw_arrows() -> list[str]:
    drawn = [
        arrow(one.at("right"), other.at("left"))
        for one, other in ((SPEC, COMPILE), (COMPILE, BUNDLE), (BUNDLE, LAUNCH))
    ]
    down = LAUNCH.at("bottom")
    drawn += [arrow(down, (down[0], PANEL[1])), *beside((down[0], 148), ["starts the run"])]

    drawn += labelled(TRAINER.at("right", 0.3), LOOP.at("left", 0.3), "tasks")
    drawn += labelled(LOOP.at("left", 0.7), TRAINER.at("right", 0.7), "tokens,", "rewards", below=True)
    drawn += labelled(LOOP.at("right"), AGENT.at("left"), "starts")
    drawn += labelled(AGENT.at("right"), VERIFIER.at("left"), "declared", "files only")
    lane = UPPER - 36.0
    up, back = VERIFIER.at("top"), LOOP.at("top")
    drawn += [
        arrow(up, (up[0], lane), (back[0], lane), back),
        text(((up[0] + back[0]) / 2, lane - 9), "test results, judged outside the sandbox"),
    ]

    ask, answer = AGENT.at("bottom", 0.66), PROXY.at("top", 0.66)
    drawn += [
        arrow(ask, answer, both=True),
        *beside((ask[0], ask[1] + 42), ["model API over HTTP,", "one secret a session"]),
    ]
    kept, to = PROXY.at("top", 0.2), LOOP.at("bottom")
    lane = (kept[1] + to[1]) / 2
    drawn += [
        arrow(kept, (kept[0], lane), (to[0], lane), to),
        text(((kept[0] + to[0]) / 2, lane - 9), "every token, as sampled"),
    ]
    drawn += labelled(PROXY.at("left"), BALANCER.at("right"), "token ids", both=True)
    drawn += labelled(BALANCER.at("left"), REPLICAS.at("right"), "token ids", both=True)
    new, there = TRAINER.at("bottom"), REPLICAS.at("top")
    drawn += [arrow(new, there), *beside((new[0], new[1] + 42), ["weights, with version", "and fingerprint"])]
    return drawn


def draw_legend() -> list[str]:
    drawn = []
    left, top = VERIFIER.left + 4, LOWER + 12.0
    meanings = {
        "ours": "LiveRL",
        "upstream": "upstream, unmodified",
        "sealed": "not trusted, sealed off",
        "panel": "many of them",
    }
    for row, (kind, words) in enumerate(meanings.items()):
        y = top + 24 * row
        if kind == "panel":
            drawn.append(rectangle(left + 4, y - 4, 20, 14, kind, radius=4))
        drawn += [rectangle(left, y, 20, 14, kind, radius=4), text((left + 34, y + 11.5), words, anchor="start")]
    return drawn


def style() -> str:
    def rules(shade: int) -> str:
        colour = {name: pair[shade] for name, pair in COLOURS.items()}
        found = [f".{name}{{fill:{colour[name]}}}" for name in FILLED]
        found += [f".{name}{{stroke:{colour[name + '-edge']}}}" for name in ("ours", "upstream", "sealed")]
        found += [
            f".panel{{stroke:{colour['edge']}}}",
            f".arrow{{stroke:{colour['quiet']}}}",
            f".head{{fill:{colour['quiet']}}}",
        ]
        return "".join(found)

    return (
        f"<style>.arrow{{fill:none;stroke-width:1.6}}{rules(0)}@media(prefers-color-scheme:dark){{{rules(1)}}}</style>"
    )


def draw() -> str:
    head = (
        '<defs><marker id="head" viewBox="0 0 10 10" refX="9.5" refY="5" markerWidth="9" markerHeight="9" '
        'markerUnits="userSpaceOnUse" orient="auto-start-reverse">'
        '<path class="head" d="M0 0 L10 5 L0 10 z"/></marker></defs>'
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        "font-family=\"system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif\" role=\"img\">",
        "<title>How LiveRL works: from a spec to a run, and round the loop of a run</title>",
        style(),
        head,
        f'<rect class="page" width="{WIDTH}" height="{HEIGHT}" rx="12"/>',
        rectangle(*PANEL, "panel", radius=14),
        text((PANEL[0] + 18, PANEL[1] + 30), "A run", size=TITLE_PX, kind="text", anchor="start"),
        *(line for box in BOXES for line in draw_box(box)),
        *draw_arrows(),
        *draw_legend(),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    FILE.write_text(draw())
