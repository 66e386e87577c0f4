"""Images made of nothing but Python: layers as tar files, manifests as tables, and how they get into a registry."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.oci.store import this_architecture

Content = bytes | str | None | tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]
"""Of a file; None: a folder; a str: a link to that; or a whole entry, with what is in it."""


def layer(files: Mapping[str, Content], *, packed: Callable[[bytes], bytes] = gzip.compress) -> tuple[bytes, str]:
    """A layer as a blob, and the digest of its tar file. Files with a ``#!`` or an ELF head may be executed."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            info, data = tarfile.TarInfo(name), b""
            if isinstance(content, tarfile.TarInfo):
                info = content
            elif isinstance(content, tuple):
                info, data = content
            elif content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
            else:
                data = content
                info.size = len(data)
                info.mode = 0o755 if data.startswith((b"#!", b"\x7fELF")) else 0o644
            archive.addfile(info, io.BytesIO(data))
    plain = stream.getvalue()
    return packed(plain), sha256(plain)


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@dataclass
class Made:
    """An image: blobs by digest, its manifest, and others by digest where that is an index."""

    manifest: bytes
    blobs: dict[str, bytes] = field(default_factory=dict)
    documents: dict[str, bytes] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        return sha256(self.manifest)


def image(layers: Sequence[Mapping[str, Content]], *, layout: Path | None = None, **config: Any) -> Made:
    """``config``: Env, WorkingDir, User. layout: also write it there as an OCI layout folder."""
    blobs, descriptors, diff_ids = {}, [], []
    for files in layers:
        blob, diff_id = layer(files)
        blobs[sha256(blob)] = blob
        kind = "application/vnd.oci.image.layer.v1.tar+gzip"
        descriptors.append({"mediaType": kind, "digest": sha256(blob), "size": len(blob)})
        diff_ids.append(diff_id)
    settings = json.dumps(
        {
            "architecture": this_architecture(),
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
    ).encode()
    blobs[sha256(settings)] = settings
    kind = "application/vnd.oci.image.config.v1+json"
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": kind, "digest": sha256(settings), "size": len(settings)},
        "layers": descriptors,
    }
    made = Made(json.dumps(manifest).encode(), blobs)
    if layout is not None:
        folder = layout / "blobs" / "sha256"
        folder.mkdir(parents=True)
        for content in (*blobs.values(), made.manifest):
            (folder / sha256(content).removeprefix("sha256:")).write_bytes(content)
        index = {"schemaVersion": 2, "manifests": [{"digest": made.digest, "size": len(made.manifest)}]}
        (layout / "index.json").write_text(json.dumps(index))
        (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return made


APPLETS = (
    *("cat", "chmod", "cp", "echo", "env", "false", "grep", "head", "id", "ln", "ls", "mkdir", "mv", "printf", "rm"),
    *("rmdir", "sh", "sleep", "test", "touch", "true"),
)


def busybox(**more: Content) -> dict[str, Content]:
    """The files of an image without libc, Python or bash: one static program. Needs Debian's busybox-static."""
    files: dict[str, Content] = {"bin": None, "bin/busybox": Path("/bin/busybox").read_bytes()}
    files |= {f"bin/{name}": "busybox" for name in APPLETS}
    return files | {"etc": None, "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\n", **more}
