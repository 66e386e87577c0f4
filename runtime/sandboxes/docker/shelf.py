"""A container engine as a shelf for images that are fetched ahead. It knows no order; nothing is removed there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runtime.errors import ImageError
from runtime.oci.reference import mirrored
from runtime.sandboxes.ahead import Pace, Wanted
from runtime.sandboxes.docker.engine import Engine, login


class EngineShelf:
    """Implements ``Shelf``. budget: bytes that all images of the engine may take; None: as many as it has room for."""

    def __init__(self, engine: Engine, *, mirrors: Mapping[str, str], budget: int | None) -> None:
        self._engine, self._mirrors, self._budget = engine, dict(mirrors), budget

    @property
    def busy(self) -> bool:
        return self._engine.waiting > 0

    def has(self, image: Wanted) -> bool:
        return self._engine.has(mirrored(image.reference, self._mirrors))

    def fetch(self, image: Wanted, *, sooner: Sequence[str], pace: Pace) -> bool:
        """The engine gives up what it pulls when nobody listens any more."""
        del sooner
        client, errors = self._engine.client, self._engine.sdk.errors
        name = mirrored(image.reference, self._mirrors)
        try:
            if self._budget is not None and int(client.df()["LayersSize"]) + image.bytes > self._budget:
                return False
            for said in client.api.pull(name, stream=True, decode=True, auth_config=login(name)):
                pace(0)
                if "error" in said:
                    raise ImageError(f"docker: {said['error']}", fix=f"docker pull {name}")
        except (errors.DockerException, OSError) as error:
            raise ImageError(f"docker: {error}", fix=f"docker pull {name}") from error
        self._engine.counts["images_ahead"] += 1
        return True
