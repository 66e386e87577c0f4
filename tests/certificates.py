"""Certificates for a test's own authority, made by openssl."""

import subprocess
from pathlib import Path

from tests.toolbox import require_command


class Authority:
    """Signs for servers and clients. ``folder`` is made."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True)
        self._openssl("req", "-x509", *_KEY, "-keyout", "key.pem", "-out", "ca.pem", "-days", "2", "-subj", "/CN=test")

    def issue(self, folder: Path, name: str) -> Path:
        """ca.pem, cert.pem and key.pem in ``folder``, for a subjectAltName such as ``IP:127.0.0.1``."""
        folder.mkdir(parents=True)
        (folder / "ca.pem").write_bytes((self._folder / "ca.pem").read_bytes())
        key, request = str(folder / "key.pem"), str(folder / "request.pem")
        self._openssl("req", *_KEY, "-keyout", key, "-out", request, "-subj", "/CN=anybody")
        (folder / "extensions").write_text(f"subjectAltName={name}\nextendedKeyUsage=serverAuth,clientAuth\n")
        signed = ["-CA", "ca.pem", "-CAkey", "key.pem", "-CAcreateserial", "-days", "2", "-out", f"{folder}/cert.pem"]
        self._openssl("x509", "-req", "-in", request, *signed, "-extfile", f"{folder}/extensions")
        return folder

    def _openssl(self, *arguments: str) -> None:
        program = require_command("openssl", package="openssl")
        subprocess.run([program, *arguments], check=True, capture_output=True, cwd=self._folder, timeout=60)


_KEY = ("-newkey", "rsa:2048", "-nodes")
