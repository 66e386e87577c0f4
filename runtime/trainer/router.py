"""verl's router, by its plug-in seam ``rollout.router_config_path``: LiveRL's balancer over every engine server.

Expands the address of a verl replica that owns several engine servers into its servers. Free of verl imports, so that
its process starts quickly. Upstream: ``verl/workers/rollout/router.py`` (``RequestLoadBalancer``,
``_create_plugin_extension``), 0.9.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray

from runtime.rollouter.balancer import LoadBalancer

ADDRESS_SCHEME = "liverl://"
_CLASS = "runtime.trainer.router.Router"


def expand(servers: Mapping[str, Any]) -> dict[str, Any]:
    """Server id -> actor handle, one entry per engine server; other replicas' entries stay as they are."""
    expanded: dict[str, Any] = {}
    for address, handle in servers.items():
        if address.startswith(ADDRESS_SCHEME):
            for name in address.removeprefix(ADDRESS_SCHEME).split(","):
                expanded[name] = ray.get_actor(name)
        else:
            expanded[address] = handle
    return expanded


class Router(LoadBalancer):
    """verl calls the constructor with its servers and the whole router file."""

    def __init__(self, servers: dict[str, Any], config: dict[str, Any]) -> None:
        super().__init__(expand(servers), config)

    def add_servers(self, servers: Mapping[str, Any]) -> None:
        super().add_servers(expand(servers))


def write_router_config(path: Path, *, routing: str) -> None:
    """The file that ``rollout.router_config_path`` names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"router_class: {_CLASS}\nrouting: {routing}\n", encoding="utf-8")
