"""A client of the OCI distribution protocol: manifests and blobs by digest, over TLS, with a password or a token.

Too many requests (429), faults of the server and cut connections are waited out; a blob goes on where it was cut. What
arrives is checked against its digest before anybody sees it. It does not know what is in a blob.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx

from runtime.errors import ImageError
from runtime.oci.credentials import credentials, trust
from runtime.oci.manifest import Descriptor, Manifest, of_platform, read_manifest
from runtime.oci.reference import DIGEST, Reference

log = logging.getLogger(__name__)
T = TypeVar("T")

ATTEMPTS = 8
LONGEST_WAIT_SEC = 60.0
MAX_MANIFEST = 4 << 20
_INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
_INDEXES_DEEP = 3
"""An index may name further ones."""
_SCHEME = re.compile(r"(?:^|,)\s*([A-Za-z]+)(?=\s+\w+\s*=|\s*(?:,|$))")
_FIELD = re.compile(r'(\w+)\s*=\s*(?:"([^"]*)"|([^\s,"]+))')


@dataclass
class Traffic:
    """``bytes`` that came over the line, ``again``: how often something had to be asked anew."""

    bytes: int = 0
    again: int = 0


@dataclass
class Registry:
    """One registry. plaintext: without TLS, for registries of this very machine. sleep: how waits are spent. pace:
    hears how many bytes have come, and may take its time, or raise what ends the fetch."""

    host: str
    plaintext: bool = False
    sleep: Callable[[float], None] = time.sleep
    pace: Callable[[int], None] = lambda _: None
    traffic: Traffic = field(default_factory=Traffic)

    def __post_init__(self) -> None:
        self._client = httpx.Client(
            verify=True if self.plaintext else trust(self.host),
            follow_redirects=True,
            timeout=httpx.Timeout(30.0, read=60.0),
            headers={"User-Agent": "liverl"},
        )
        self._login = credentials(self.host)
        self._authorization: dict[str, str] = {}

    def close(self) -> None:
        self._client.close()

    def manifest(self, reference: Reference, *, architecture: str) -> Manifest:
        """The manifest for Linux on ``architecture``. Raises ``ImageError``."""
        digest, found = self._document(reference, reference.wanted)
        for _ in range(_INDEXES_DEEP):
            if found.get("mediaType") not in _INDEXES and "manifests" not in found:
                break
            digest, found = self._document(reference, of_platform(reference, found, architecture))
        return read_manifest(str(reference), digest, found)

    def blob(self, reference: Reference, descriptor: Descriptor, target: Path) -> None:
        """Fetch a blob into ``target``, which holds what an earlier try left. Raises ``ImageError``, ``OSError``."""
        url = self._url(reference, "blobs", descriptor.digest)

        def fetch() -> None:
            have = target.stat().st_size if target.exists() else 0
            if have > descriptor.size:
                target.unlink()
                have = 0
            if have < descriptor.size:
                self._stream(reference, descriptor, url, target, have)
            check(target, descriptor)

        self._patiently(reference, f"layer {descriptor.digest[:19]}", fetch)

    def _stream(self, reference: Reference, descriptor: Descriptor, url: str, target: Path, have: int) -> None:
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with self._client.stream("GET", url, headers={**headers, **self._authorization}) as answer:
            self._accepted(reference, answer)
            part = answer.headers.get("Content-Range", f"bytes {have}-")
            if answer.status_code == 206 and not part.startswith(f"bytes {have}-"):
                target.unlink(missing_ok=True)
                raise _Again("the registry answered with another part than was asked for", wait_sec=0.0)
            # A server that knows no ranges starts anew.
            with target.open("ab" if have and answer.status_code == 206 else "wb") as file:
                lacking = descriptor.size - file.tell()
                for piece in answer.iter_raw():
                    self.traffic.bytes += len(piece)
                    self.pace(len(piece))
                    lacking -= len(piece)
                    if lacking < 0:
                        raise _refused(reference, f"more came than the {descriptor.size} bytes of {descriptor.digest}")
                    file.write(piece)

    def _document(self, reference: Reference, wanted: str) -> tuple[str, dict[str, Any]]:
        url = self._url(reference, "manifests", wanted)

        def fetch() -> bytes:
            headers = {"Accept": ", ".join((*_MANIFESTS, *_INDEXES)), **self._authorization}
            with self._client.stream("GET", url, headers=headers) as answer:
                self._accepted(reference, answer)
                content = b""
                for part in answer.iter_bytes():
                    content += part
                    if len(content) > MAX_MANIFEST:
                        raise _refused(reference, f"its manifest is longer than {MAX_MANIFEST >> 20} MiB")
            self.traffic.bytes += len(content)
            return content

        content = self._patiently(reference, "manifest", fetch)
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if DIGEST.fullmatch(wanted) and digest != wanted:
            raise _refused(reference, f"the registry answered with {digest} where {wanted} was asked for")
        try:
            found = json.loads(content)
        except ValueError as error:
            raise _refused(reference, f"its manifest is no JSON: {error}") from error
        if not isinstance(found, dict):
            raise _refused(reference, "its manifest is no table")
        return digest, found

    def _url(self, reference: Reference, kind: str, name: str) -> str:
        return f"{'http' if self.plaintext else 'https'}://{self.host}/v2/{reference.repository}/{kind}/{name}"

    def _patiently(self, reference: Reference, what: str, fetch: Callable[[], T]) -> T:
        for attempt in range(ATTEMPTS):
            try:
                return fetch()
            except _Again as again:
                why, wait = str(again), again.wait_sec
            except httpx.InvalidURL as error:  # where a registry sends us
                raise _refused(reference, f"{what}: {error}") from error
            except httpx.RequestError as error:
                why, wait = f"{type(error).__name__}: {error}", None
                if "CERTIFICATE_VERIFY_FAILED" in why:
                    raise _refused(reference, why) from error
            if attempt + 1 == ATTEMPTS:
                break
            self.traffic.again += 1
            pause = min(LONGEST_WAIT_SEC, 0.25 * 2**attempt * random.uniform(0.75, 1.25) if wait is None else wait)
            log.info("%s: %s: %s; asked again in %.1f s", reference, what, why, pause)
            self.sleep(pause)
        raise _refused(reference, f"{what}: {why}, {ATTEMPTS} times")

    def _accepted(self, reference: Reference, answer: httpx.Response) -> None:
        """Raises ``_Again`` where asking again may help, ``ImageError`` where it cannot."""
        status = answer.status_code
        if status in (200, 206):
            return
        if answer.history and status in (401, 403):  # where it sent us, and an address like that is good for a while
            raise _Again(f"{answer.url.host} answered {status}", wait_sec=None)
        if status == 401 and self._authorize(reference, answer):
            raise _Again("a token was asked for", wait_sec=0.0)
        if status == 416:
            raise _Again("the registry has less of it than is here", wait_sec=0.0)
        if status == 429 or status >= 500:
            raise _Again(f"the registry answered {status}", wait_sec=_retry_after(answer))
        answer.read()
        causes = {401: "the registry wants a password", 403: "the registry refuses", 404: "the registry has none"}
        raise _refused(reference, f"{causes.get(status, f'the registry answered {status}')}: {answer.text[:200]}")

    def _authorize(self, reference: Reference, answer: httpx.Response) -> bool:
        """Whether there is something new to show to the registry. Raises ``_Again``."""
        shown, now = answer.request.headers.get("Authorization"), self._authorization.get("Authorization")
        if now is not None and now != shown:
            return True  # another layer's fetch has just asked
        value = None
        for scheme, fields in _challenges(answer.headers.get_list("WWW-Authenticate")):
            if scheme == "basic" and self._login is not None:
                value = value or httpx.BasicAuth(*self._login)._auth_header
            elif scheme == "bearer" and fields.get("realm", "").startswith(
                ("https://", "http://")[: 1 + self.plaintext]
            ):
                value = self._token(reference, fields) or value
        if value is None or value == shown:
            return False
        self._authorization = {"Authorization": value}
        return True

    def _token(self, reference: Reference, fields: Mapping[str, str]) -> str | None:
        asked = {"scope": fields.get("scope") or f"repository:{reference.repository}:pull"}
        asked |= {"service": fields["service"]} if "service" in fields else {}
        answer = self._client.get(fields["realm"], params=asked, auth=self._login)
        if answer.status_code == 429 or answer.status_code >= 500:
            raise _Again(
                f"who gives the registry's tokens answered {answer.status_code}", wait_sec=_retry_after(answer)
            )
        try:
            found = answer.json() if answer.status_code == 200 else None
        except ValueError:
            return None
        token = (found.get("token") or found.get("access_token")) if isinstance(found, dict) else None
        return f"Bearer {token}" if isinstance(token, str) else None


def _challenges(headers: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """(scheme, fields) of every way of logging in that a registry names, one a header or several in one."""
    for header in headers:
        heads = list(_SCHEME.finditer(header))
        ends = [*(head.start() for head in heads[1:]), len(header)]
        for head, end in zip(heads, ends, strict=True):
            fields = {
                match[1].lower(): match[2] or match[3] or "" for match in _FIELD.finditer(header, head.end(), end)
            }
            yield head[1].lower(), fields


class _Again(Exception):
    def __init__(self, why: str, *, wait_sec: float | None) -> None:
        super().__init__(why)
        self.wait_sec = wait_sec


def _retry_after(answer: httpx.Response) -> float | None:
    text = answer.headers.get("Retry-After", "")
    return float(text) if text.isdecimal() else None


def _refused(reference: Reference, why: str) -> ImageError:
    return ImageError(f"image {reference}: {why}", fix=f"skopeo inspect docker://{reference}, docker login, or its CA")


def check(path: Path, descriptor: Descriptor) -> None:
    """Raises ``_Again`` for another size, having removed what is of another digest."""
    size = path.stat().st_size
    if size < descriptor.size:
        raise _Again(f"the connection ended after {size} of {descriptor.size} bytes", wait_sec=None)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if f"sha256:{found}" != descriptor.digest:
        path.unlink()
        raise _Again(f"what arrived has another digest, {found[:12]}", wait_sec=None)
