"""Layers as strangers write them, unpacked: what must be kept, what must be dropped, and what must be refused."""

import gzip
import os
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest
import zstandard

from runtime.oci import layer as unpacking
from runtime.oci.layer import BadLayer, is_whiteout, unpack
from runtime.oci.merged import NoFolder, merge
from tests.oci_images import Content, layer


def unpacked(tmp_path: Path, files: dict[str, Content], name: str = "layer") -> Path:
    blob, diff_id = layer(files)
    (tmp_path / "blob").write_bytes(blob)
    (tmp_path / name).mkdir()
    found = unpack(tmp_path / "blob", tmp_path / name)
    assert found.diff_id == diff_id
    return tmp_path / name


def entry(name: str, kind: bytes = tarfile.REGTYPE, **values: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in values.items():
        setattr(info, key, value)
    return info


def test_files_links_modes_times_and_attributes(tmp_path: Path) -> None:
    root = unpacked(
        tmp_path,
        {
            "a": None,
            "a/file": b"content",
            "a/hard": entry("a/hard", tarfile.LNKTYPE, linkname="a/file"),
            "a/soft": "../nowhere",
            "pipe": entry("pipe", tarfile.FIFOTYPE, mode=0o600),
            "suid": entry("suid", mode=0o4755, mtime=1_000_000_000, pax_headers={"SCHILY.xattr.user.note": "kept"}),
            "./dotted/deep/file": b"made on the way",
            "/rooted": b"relative all the same",
        },
    )
    assert (root / "a/file").read_bytes() == b"content"
    assert (root / "a/file").stat().st_ino == (root / "a/hard").stat().st_ino
    assert str((root / "a/soft").readlink()) == "../nowhere"
    assert stat.S_ISFIFO((root / "pipe").stat().st_mode)
    suid = (root / "suid").stat()
    assert stat.S_IMODE(suid.st_mode) == 0o755 and suid.st_mtime == 1_000_000_000 and suid.st_uid == os.getuid()
    assert os.getxattr(root / "suid", "user.note") == b"kept"
    assert (root / "dotted/deep/file").is_file() and (root / "rooted").is_file()


def test_devices_and_what_overlayfs_would_heed_are_dropped(tmp_path: Path) -> None:
    redirect = {"SCHILY.xattr.user.overlay.redirect": "/etc", "SCHILY.xattr.security.capability": "x"}
    root = unpacked(
        tmp_path, {"disk": entry("disk", tarfile.BLKTYPE, devmajor=8), "file": entry("file", pax_headers=redirect)}
    )
    assert [path.name for path in root.iterdir()] == ["file"] and os.listxattr(root / "file") == []


@pytest.mark.parametrize(
    "files",
    [
        {"../out": b"x"},
        {"a/../../out": b"x"},
        {"link": "/tmp", "link/out": b"x"},
        {"link": "..", "link/out": None},
        {"hard": entry("hard", tarfile.LNKTYPE, linkname="../../etc/passwd")},
        {"hard": entry("hard", tarfile.LNKTYPE, linkname="/etc/passwd")},
        {"link": "/etc", "hard": entry("hard", tarfile.LNKTYPE, linkname="link/passwd")},
        {"link": "/tmp", "link/.wh.liverl": b""},
        {".wh..": b""},
    ],
    ids=lambda files: "+".join(files),
)
def test_no_name_leads_out(tmp_path: Path, files: dict[str, Content]) -> None:
    with pytest.raises((BadLayer, OSError)):
        unpacked(tmp_path, files)
    assert not (tmp_path / "out").exists()
    assert not Path("/tmp/out").exists() and not Path("/tmp/liverl").exists()


@pytest.mark.parametrize(
    "files",
    [
        {"x" * 300: b""},
        {"empty": entry("empty", tarfile.SYMTYPE, linkname="")},
        {"link": entry("link", tarfile.SYMTYPE, pax_headers={"linkpath": "a\0b"})},
        {"never": entry("never", pax_headers={"mtime": "nan"})},
        {"late": entry("late", pax_headers={"mtime": "1e300"})},
        {"folder": entry("folder", tarfile.DIRTYPE, pax_headers={"mtime": "inf"})},
        {"named": entry("named", pax_headers={"SCHILY.xattr.user.a\0b": "x"})},
        {"large": entry("large", pax_headers={"SCHILY.xattr.user." + "a" * 300: "x"})},
    ],
    ids=lambda files: next(iter(files))[:8],
)
def test_an_entry_that_no_file_can_be_is_the_layers_fault(tmp_path: Path, files: dict[str, Content]) -> None:
    """And neither the disk's nor ours."""
    with pytest.raises(BadLayer, match="an entry that no file can be"):
        unpacked(tmp_path, files)


def test_a_later_entry_replaces_and_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("untouched")
    root = unpacked(tmp_path, {"x": str(tmp_path / "victim"), "./x": b"a file", "d": None, "./d": "x"})
    assert (tmp_path / "victim").read_text() == "untouched"
    assert (root / "x").read_bytes() == b"a file" and str((root / "d").readlink()) == "x"


def test_sparse_files_stay_sparse(tmp_path: Path) -> None:
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(64 << 20)
        file.seek(32 << 20)
        file.write(b"middle")
    subprocess.run(["tar", "-C", tmp_path, "-cSf", tmp_path / "blob", "hole"], check=True)
    (tmp_path / "layer").mkdir()
    unpack(tmp_path / "blob", tmp_path / "layer")
    there = (tmp_path / "layer/hole").stat()
    assert there.st_size == 64 << 20 and there.st_blocks * 512 < 4 << 20
    with (tmp_path / "layer/hole").open("rb") as file:
        file.seek(32 << 20)
        assert file.read(6) == b"middle"


def test_the_disk_is_looked_at_within_one_large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "_LOOK_EVERY", 1 << 21)
    (tmp_path / "blob").write_bytes(layer({"large": bytes(8 << 20)})[0])
    (tmp_path / "layer").mkdir()

    def full() -> None:
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        unpack(tmp_path / "blob", tmp_path / "layer", look=full)
    assert (tmp_path / "layer/large").stat().st_size <= 4 << 20


@pytest.mark.parametrize(
    "packed", [gzip.compress, zstandard.compress, bytes, lambda b: gzip.compress(b[:9]) + gzip.compress(b[9:])]
)
def test_every_compression(tmp_path: Path, packed) -> None:  # type: ignore[no-untyped-def]
    blob, diff_id = layer({"file": b"x" * 300_000}, packed=packed)
    (tmp_path / "blob").write_bytes(blob)
    (tmp_path / "layer").mkdir()
    assert unpack(tmp_path / "blob", tmp_path / "layer").diff_id == diff_id
    assert (tmp_path / "layer/file").stat().st_size == 300_000


@pytest.mark.parametrize(
    "content",
    [b"nonsense", gzip.compress(b"x" * 600)[:20], b"\x28\xb5\x2f\xfdnonsense", gzip.compress(b"x" * 600)],
    ids=["nothing", "cut", "zstd", "no-tar"],
)
def test_what_is_no_layer_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "blob").write_bytes(content)
    (tmp_path / "layer").mkdir()
    with pytest.raises(BadLayer, match="no tar file"):
        unpack(tmp_path / "blob", tmp_path / "layer")


def test_layers_together(tmp_path: Path) -> None:
    low = unpacked(
        tmp_path,
        {"w/keep": b"low", "w/gone": b"x", "w/dir/a": b"1", "w/dir/b": b"2", "w/file": b"was a file", "w/old/x": b"x"},
        "low",
    )
    high = unpacked(
        tmp_path,
        {
            "w/.wh.gone": b"",
            "w/dir/.wh..wh..opq": b"",
            "w/dir/c": b"3",
            "w/file/inner": b"a folder now",
            "w/.wh.old": b"",
            "w/old/new": b"n",
        },
        "high",
    )
    assert is_whiteout((high / "w/gone").lstat())
    merge([low, high], "/w", tmp_path / "tree")
    files = {
        str(path.relative_to(tmp_path / "tree")): path.read_bytes()
        for path in (tmp_path / "tree").rglob("*")
        if path.is_file()
    }
    assert files == {"keep": b"low", "dir/c": b"3", "file/inner": b"a folder now", "old/new": b"n"}
    merge([low, high], "/nothing", tmp_path / "empty")
    assert list((tmp_path / "empty").iterdir()) == []
    linked = unpacked(tmp_path, {"w": "/etc"}, "linked")
    with pytest.raises(NoFolder, match="no folder"):
        merge([low, high, linked], "/w/x", tmp_path / "bad")
