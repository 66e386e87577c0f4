"""The way to a Docker engine: a socket of this machine, or tcp with TLS and certificates on both sides.

Whoever may speak to an engine is root on its machine. Plain tcp is therefore refused unless the spec asks for it by
name, and every way in which TLS can fail is said in words. It does not know what containers are for.
"""

from __future__ import annotations

import http.client
import importlib
import logging
import os
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from runtime import suggest
from runtime.errors import MachineError

log = logging.getLogger(__name__)

INSTALL = f"{suggest.pip('docker>=7.1')}, and start an engine: apt-get install -y docker.io"
TIMEOUT_SEC = 60.0
_PROBE_SEC = 10.0
_POOL = 64
"""Requests to the engine that may be under way at once."""
CERTIFICATES = ("ca.pem", "cert.pem", "key.pem")


@dataclass(frozen=True)
class Connection:
    """``url``: ``unix:///path`` or ``tcp://host:port``. ``certificates``: folder of ``CERTIFICATES``; None: no TLS."""

    url: str
    certificates: Path | None = None
    context: ssl.SSLContext | None = None

    @property
    def local(self) -> bool:
        """Whether the engine runs on this machine and sees its files and processes."""
        return self.url.startswith("unix://")

    @property
    def path(self) -> str:
        return self.url.removeprefix("unix://")

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or 0

    def client(self, sdk: Any) -> Any:
        """The SDK's client, after the engine has answered. Raises ``MachineError``. Blocks."""
        version = self._ping()
        tls: Any = False
        if self.certificates is not None:
            ca, cert, key = (str(self.certificates / name) for name in CERTIFICATES)
            tls = sdk.tls.TLSConfig(client_cert=(cert, key), ca_cert=ca, verify=True)
        made = sdk.DockerClient(base_url=self.url, tls=tls, timeout=TIMEOUT_SEC, version=version, max_pool_size=_POOL)
        made.api.trust_env = False  # an HTTP proxy of the environment is not on the way to an engine
        return made

    def knock(self) -> None:
        """Raises ``OSError`` where nobody listens at a local socket: the SDK's client would leak its own for that."""
        if self.local:
            self._dial().close()

    def _ping(self) -> str:
        """The version of the engine's API."""
        host, port = ("localhost", 80) if self.local else self.address
        connection = http.client.HTTPConnection(host, port, timeout=_PROBE_SEC)
        try:
            connection.sock = self._dial()
            connection.request("GET", "/_ping")
            with connection.getresponse() as answer:
                said = answer.read(500).decode(errors="replace").strip()
            version = answer.getheader("Api-Version")
        except (OSError, http.client.HTTPException) as error:
            why, fix = _explain(error)
            raise MachineError(f"docker engine {self.url}: {why}", fix=fix) from error
        finally:
            connection.close()
        if answer.status == 400 and "HTTPS" in said:
            fix = "leave out environment.docker_plaintext and name the folder of certificates"
            raise MachineError(f"docker engine {self.url}: it speaks TLS, we were told not to", fix=fix)
        if answer.status != 200 or version is None:
            raise MachineError(f"docker engine {self.url}: no engine: {answer.status} {said[:200]}", fix=INSTALL)
        return version

    def _dial(self) -> socket.socket:
        if self.local:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.settimeout(_PROBE_SEC)
                connection.connect(self.path)
            except BaseException:
                connection.close()
                raise
            return connection
        connection = socket.create_connection(self.address, _PROBE_SEC)
        if self.context is None:
            return connection
        try:
            return self.context.wrap_socket(connection, server_hostname=self.address[0])
        except BaseException:
            connection.close()
            raise


def connection(url: str | None, *, certificates: str | None = None, plaintext: bool = False) -> Connection:
    """Resolve settings and the variables of Docker's own client (``DOCKER_HOST``, ``DOCKER_CERT_PATH``).

    plaintext: tcp without TLS is wanted. Raises ``MachineError``.
    """
    url = url or os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    if url.startswith("unix://"):
        return Connection(url)
    parts = urlsplit(url)
    if parts.scheme != "tcp" or not parts.hostname or not parts.port:
        raise MachineError(
            f"docker engine {url}: not an address that is known here",
            fix="give unix:///path/of/docker.sock, or tcp://HOST:PORT with certificates",
        )
    url = f"tcp://{parts.netloc}"
    if plaintext:
        log.warning(
            "PLAINTEXT: whoever can reach %s, or stands on the way to it, is root on that machine and sees everything "
            "that goes there (environment.docker_plaintext)",
            url,
        )
        return Connection(url)
    folder = Path(certificates or os.environ.get("DOCKER_CERT_PATH") or Path.home() / ".docker")
    lacking = [name for name in CERTIFICATES if not (folder / name).is_file()]
    if lacking:
        raise MachineError(
            f"docker engine {url}: {folder} lacks {', '.join(lacking)}, and tcp without TLS makes everybody on the way "
            "root on that machine",
            fix="name the folder with ca.pem, cert.pem and key.pem in environment.docker_certificates or "
            "DOCKER_CERT_PATH; on a network that nobody else can reach, environment.docker_plaintext: true",
        )
    ca, cert, key = (str(folder / name) for name in CERTIFICATES)
    try:
        context = ssl.create_default_context(cafile=ca)
        context.load_cert_chain(cert, key)
    except (ssl.SSLError, OSError) as error:
        said = getattr(error, "reason", None) or error
        raise MachineError(
            f"docker engine {url}: the certificates in {folder} cannot be used: {said}",
            fix="ca.pem is the engine's authority; cert.pem and key.pem belong together, all three in PEM",
        ) from error
    return Connection(url, folder, context)


def _explain(error: Exception) -> tuple[str, str]:
    """(what went wrong, what to do) of a connection that failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if "match" in error.verify_message:
            names = "make the engine's certificate for this name (subjectAltName), or use a name that it has"
            return f"its certificate is for another machine: {error.verify_message}", names
        return (
            f"its certificate is not to be trusted: {error.verify_message}",
            "put the authority that signed the engine's certificate into ca.pem",
        )
    if isinstance(error, ssl.SSLError):
        reason = error.reason or str(error)
        if "ALERT" in reason:
            return (
                f"it refuses our certificate ({reason})",
                "have cert.pem signed, for clients, by the authority that the engine trusts (its --tlscacert)",
            )
        return f"it does not speak TLS ({reason})", "start it with --tlsverify and its certificates"
    if isinstance(error, TimeoutError | socket.gaierror):
        return str(error) or "no answer", "check host, port and firewall"
    return str(error) or repr(error), INSTALL


def import_sdk() -> Any:
    """Docker's own client. A folder called ``docker`` on Python's path would come in its place without a word."""
    try:
        sdk = importlib.import_module("docker")
        errors = importlib.import_module("docker.errors")
        importlib.import_module("docker.types")
    except ImportError as error:
        raise MachineError(f"the docker client for Python is not installed ({error})", fix=INSTALL) from error
    if not hasattr(sdk, "DockerClient") or not hasattr(errors, "DockerException"):
        where = getattr(sdk, "__file__", None) or list(getattr(sdk, "__path__", ["?"]))
        raise MachineError(f"{where} stands in the way of the docker client", fix="rename it, or start elsewhere")
    return sdk
