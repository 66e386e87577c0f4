"""LiveRL's own programs that every box shows below ``/opt/liverl``: host folders by name.

They run inside boxes, with the standard library alone. Nothing here imports them or knows what they do.
"""

from __future__ import annotations

from pathlib import Path

_RUNTIME = Path(__file__).parents[1]
PROGRAMS = {"guest": _RUNTIME / "sandboxes" / "guest", "testkit": _RUNTIME / "grading" / "testkit"}
