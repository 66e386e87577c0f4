"""The store against registries that are busy, cut lines and lie, and against itself in two processes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from liverl.cli import build_app
from runtime.errors import ImageError, MachineError
from runtime.oci.reference import parse
from runtime.oci.store import ImageStore, this_architecture
from runtime.sandboxes.guest.image_root import _mount_layers
from tests.oci_images import Made, image, sha256
from tests.runtime.oci.conftest import FaultyRegistry, RealRegistry


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def store(tmp_path: Path, faulty: FaultyRegistry, waits: list[float]) -> ImageStore:
    return ImageStore(tmp_path / "store", plaintext=[faulty.host], sleep=waits.append)


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("debian", "docker.io/library/debian:latest"),
        ("docker.io/a/b:1", "docker.io/a/b:1"),
        ("localhost:5000/x", "localhost:5000/x:latest"),
        ("ghcr.io/a/b/c@sha256:" + "0" * 64, "ghcr.io/a/b/c@sha256:" + "0" * 64),
        (
            "swebench/sweb.eval.x86_64.django_1776_django-11099",
            "docker.io/swebench/sweb.eval.x86_64.django_1776_django-11099:latest",
        ),
    ],
)
def test_names(text: str, full: str) -> None:
    assert str(parse(text)) == full


@pytest.mark.parametrize("text", ["", "Upper/case", "a b", "x@sha256:1", "x:", "../etc", "x/../y"])
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(ValueError, match="image"):
        parse(text)


@pytest.mark.consumers
def test_a_real_registry_with_tls_and_password(
    registry: RealRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = image([{"etc/one": b"1"}, {"etc/two": b"2"}], Env=["PATH=/bin", "X=a=b"], WorkingDir="/w")
    name = registry.push("some/image", made)
    store = ImageStore(tmp_path / "store")
    found = store.pull(name)
    assert found.digest == made.digest and found.reference == f"{registry.host}/some/image@{made.digest}"
    assert dict(found.env) == {"PATH": "/bin", "X": "a=b"} and found.workdir == "/w"
    assert [[path.name for path in (store.layer(folder) / "etc").iterdir()] for folder in found.folders] == [
        ["one"],
        ["two"],
    ]
    assert ImageStore(tmp_path / "store").pull(found.reference) == found
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "none.json"))
    with pytest.raises(ImageError, match="password"):
        ImageStore(tmp_path / "other").pull(name)


def test_busy_and_broken_registries_are_waited_out(
    store: ImageStore, faulty: FaultyRegistry, waits: list[float]
) -> None:
    faulty.token = "good"
    name = faulty.push("busy", image([{"big": os.urandom(200_000)}]))
    faulty.faults = ["429", "500", "cut", "cut"]
    found = store.pull(name)
    assert (store.layer(found.folders[0]) / "big").stat().st_size == 200_000
    assert 7.0 in waits, "what the registry asks for is waited"
    resumed = [span for path, span in faulty.seen if span]
    assert resumed, "what had come is not fetched again"
    assert store.pull(name) == found and store.counts.hits == 1 and store.counts.misses == 1


def test_a_registry_that_stays_busy_is_an_error(store: ImageStore, faulty: FaultyRegistry) -> None:
    name = faulty.push("busy", image([{"x": b"x"}]))
    faulty.faults = ["429"] * 100
    with pytest.raises(ImageError, match="429"):
        store.pull(name)
    assert store.images() == []


@pytest.mark.parametrize(
    "challenges",
    [
        ('Basic realm="x"', 'Bearer realm="http://{host}/token",service="test"'),
        ('Basic realm="a, b", Bearer service=test, realm="http://{host}/token"',),
        ('bearer realm="http://{host}/token"',),
        ("Negotiate, Bearer realm=http://{host}/token,scope=pull",),
    ],
    ids=str,
)
def test_tokens_that_end_in_mid_pull_are_asked_for_anew(
    store: ImageStore, faulty: FaultyRegistry, challenges: tuple[str, ...]
) -> None:
    """By several fetches at once, of who is busy himself, however the registry says that it wants one."""
    faulty.token, faulty.lives, faulty.challenges, faulty.refused = "t", 999, challenges, [429, 503]
    name = faulty.push("tokens", image([{f"{number}": os.urandom(50_000)} for number in range(6)]))
    faulty.faults = ["cut", "shifted"]
    assert len(store.pull(name).layers) == 6
    assert len({shown for _, shown in faulty.told if shown}) > 2


def test_blobs_at_another_hosts_are_fetched_without_the_registrys_token(
    store: ImageStore, faulty: FaultyRegistry
) -> None:
    """And what that host asks for is not answered: it may be anybody's."""
    faulty.token, faulty.elsewhere = "t", [403, 401]
    found = store.pull(faulty.push("sent", image([{"x": b"x"}])))
    assert (store.layer(found.folders[0]) / "x").read_bytes() == b"x"
    assert {shown for path, shown in faulty.told if path.startswith("/elsewhere")} == {""}
    assert len([path for path, _ in faulty.told if path.startswith("/token")]) == 1


def _listed(*entries: dict[str, object]) -> bytes:
    return json.dumps({"schemaVersion": 2, "manifests": entries}).encode()


def test_an_index_has_one_for_this_machine(store: ImageStore, faulty: FaultyRegistry) -> None:
    """For its plain processors before newer ones, through an index of indexes, and alone without a platform."""
    mine, made = {"os": "linux", "architecture": this_architecture()}, image([{"x": b"x"}])
    name, newer = faulty.push("many", made), image([{"newer": b""}])
    inner = _listed(
        {"digest": sha256(b"none"), "platform": {"os": "unknown", "architecture": "unknown"}},
        {"digest": newer.digest, "platform": {**mine, "variant": "v3"}},
        {"digest": made.digest, "platform": mine},
    )
    outer = _listed({"digest": sha256(inner), "platform": mine})
    for index in (inner, outer, _listed({"digest": made.digest})):
        documents = {sha256(inner): inner, made.digest: made.manifest}
        faulty.images["many"] = Made(index, made.blobs, documents)
        assert store.pull(name, again=True).digest == made.digest


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"schemaVersion": 1, "config": None, "fsLayers": []}, "Docker's schema 1"),
        ({"config": {"mediaType": "application/vnd.cncf.helm.config.v1+json"}}, "something of the kind .*helm"),
    ],
)
def test_what_is_no_image_is_called_so(
    store: ImageStore, faulty: FaultyRegistry, changes: dict[str, object], why: str
) -> None:
    made = image([{"x": b"x"}])
    made.manifest = json.dumps(json.loads(made.manifest) | changes).encode()
    with pytest.raises(ImageError, match=why):
        store.pull(faulty.push("other", made))


@pytest.mark.parametrize("config", [{"architecture": "s390x"}, {"os": "windows"}])
def test_an_image_of_another_machine_is_refused(
    store: ImageStore, faulty: FaultyRegistry, config: dict[str, object]
) -> None:
    """A tag without an index may be of any, and its programs would not start."""
    with pytest.raises(ImageError, match=f"is for .*{next(iter(config.values()))}"):
        store.pull(faulty.push("foreign", _configured(image([{"x": b"x"}]), config)))
    assert not store.images()


def test_what_has_another_digest_is_refused(store: ImageStore, faulty: FaultyRegistry) -> None:
    made = image([{"x": b"x"}])
    name = faulty.push("liar", made)
    blob = next(
        digest
        for digest in made.blobs
        if digest in made.manifest.decode() and digest != json.loads(made.manifest)["config"]["digest"]
    )
    made.blobs[blob] = bytes(len(made.blobs[blob]))
    with pytest.raises(ImageError, match="another digest"):
        store.pull(name)
    with pytest.raises(ImageError, match="was asked for"):
        store.pull(_swapped(faulty))


def test_more_than_a_blobs_size_is_not_taken(store: ImageStore, faulty: FaultyRegistry) -> None:
    made = image([{"x": b"x"}])
    name = faulty.push("endless", made)
    (layer,) = json.loads(made.manifest)["layers"]
    made.blobs[layer["digest"]] += bytes(1 << 20)
    with pytest.raises(ImageError, match="more came than"):
        store.pull(name)
    assert sum(path.stat().st_size for path in (store.root / "blobs").iterdir()) <= layer["size"]


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"rootfs": []}, "0 digests"),
        ({"rootfs": {"diff_ids": 3}}, "0 digests"),
        ({"rootfs": "x"}, "no table"),
        ({"config": ["x"]}, "no table"),
        ({"config": {"Env": 3}}, "cannot be read"),
        ({"config": {"Env": [["A=b"]]}}, "cannot be read"),
        ({"config": {"Env": ["A=\0"]}}, "cannot be read"),
        ({"config": {"Env": ["=x"]}}, "cannot be read"),
    ],
)
def test_a_configuration_of_another_form(
    store: ImageStore, faulty: FaultyRegistry, config: dict[str, object], why: str
) -> None:
    with pytest.raises(ImageError, match=why):
        store.pull(faulty.push("formless", _configured(image([{"x": b"x"}]), config)))


def test_users_and_variables_are_those_that_engines_see(store: ImageStore, faulty: FaultyRegistry) -> None:
    users = {"": True, "0:root": True, "root": True, "root:games": False, "1000": False, "nobody:0": False}
    for user, root in users.items():
        made = image([{"x": b"x"}], User=user, Env=["A=1", "UNSET", "B=", "A=2"])
        found = store.pull(faulty.push("users", made), again=True)
        assert found.root_user == root, user
        assert dict(found.env) == {"A": "2", "B": ""}


def _configured(made: Made, config: dict[str, object], **descriptor: object) -> Made:
    manifest = json.loads(made.manifest)
    content = json.dumps(json.loads(made.blobs[manifest["config"]["digest"]]) | config).encode()
    manifest["config"] |= {"digest": sha256(content), "size": len(content), **descriptor}
    made.manifest, made.blobs = json.dumps(manifest).encode(), made.blobs | {sha256(content): content}
    return made


@pytest.mark.parametrize("index", [{"manifests": 3}, {"manifests": [{"platform": "linux"}, 7]}], ids=str)
def test_an_index_of_another_form(store: ImageStore, faulty: FaultyRegistry, index: dict[str, object]) -> None:
    made = image([{"x": b""}])
    made.manifest = json.dumps(index).encode()
    with pytest.raises(ImageError, match="none for linux"):
        store.pull(faulty.push("formless", made))


def test_files_below_a_link_of_a_lower_layer_do_not_hide_it(store: ImageStore, faulty: FaultyRegistry) -> None:
    low = {"usr/lib/libc": b"c", "lib": "usr/lib", "opt": "usr/lib", "gone": "usr"}
    with pytest.raises(ImageError, match="layer 3 has files in /lib, which is a link"):
        store.pull(faulty.push("hides", image([low, {"usr": None}, {"lib/more": b""}])))
    high = {"lib": None, "lib/sub/more": b"", "usr/lib/more": b"", "new/more": b"", ".wh.gone": b"", "gone/more": b""}
    high |= {"opt/more": b"", ".wh.opt": b""}
    assert store.pull(faulty.push("replaces", image([low, high]))).layers, "a folder in the link's place is meant"


def test_a_configuration_without_end(store: ImageStore, faulty: FaultyRegistry) -> None:
    with pytest.raises(ImageError, match="longer than 8 MiB"):
        store.pull(faulty.push("large", _configured(image([{"x": b"x"}]), {}, size=1 << 40)))


def _swapped(faulty: FaultyRegistry) -> str:
    """A reference by digest that the registry answers with another manifest."""
    wanted = image([{"wanted": b""}]).digest
    faulty.images["swapped"] = image([{"other": b""}])
    return f"{faulty.host}/swapped@{wanted}"


def test_a_missing_image_and_another_platform(store: ImageStore, faulty: FaultyRegistry) -> None:
    with pytest.raises(ImageError, match="has none"):
        store.pull(f"{faulty.host}/nothing:1")
    index = {"manifests": [{"digest": sha256(b""), "platform": {"os": "linux", "architecture": "s390x"}}]}
    made = image([{"x": b""}])
    made.manifest = json.dumps(index).encode()
    with pytest.raises(ImageError, match="s390x"):
        store.pull(faulty.push("foreign", made))


def test_a_layer_that_is_not_what_the_image_says(store: ImageStore, faulty: FaultyRegistry) -> None:
    made, other = image([{"x": b"x"}]), image([{"y": b"y"}])
    manifest = json.loads(made.manifest)
    manifest["layers"] = json.loads(other.manifest)["layers"]
    made.manifest, made.blobs = json.dumps(manifest).encode(), made.blobs | other.blobs
    with pytest.raises(ImageError, match="and the image says"):
        store.pull(faulty.push("mixed", made))


@pytest.mark.parametrize("forged", ["sha256:../../victim", "../../victim", "sha256:" + "0" * 26])
def test_a_layers_digest_that_is_a_path_names_no_folder(store: ImageStore, faulty: FaultyRegistry, forged: str) -> None:
    """It would show a folder of the host as a layer."""
    (store.root.parent / "victim").mkdir()
    made = _configured(image([{"x": b"x"}]), {"rootfs": {"diff_ids": [forged]}})
    with pytest.raises(ImageError, match="none of sha256"):
        store.pull(faulty.push("hostile", made))
    good = store.pull(faulty.push("good", image([{"y": b"y"}])))
    record = store._record(good.digest)
    record.write_text(json.dumps(json.loads(record.read_bytes()) | {"layers": [forged]}))
    assert store.image(good.digest) is None, "nor does a record of one"
    with pytest.raises(OSError, match="leads out"):
        _mount_layers(str(store.root / "layers"), [forged])


def test_two_layers_of_one_name_are_not_taken_for_each_other(store: ImageStore, faulty: FaultyRegistry) -> None:
    found = store.pull(faulty.push("one", image([{"x": b"x"}])))
    record = store.layer(found.folders[0]).with_name(f"{found.folders[0]}.json")
    record.write_text(json.dumps(json.loads(record.read_bytes()) | {"diff_id": found.layers[0][:-1] + "x"}))
    assert store.image(found.digest) is None
    with pytest.raises(ImageError, match="another layer is here"):
        store.pull(found.reference)


def test_the_least_recently_used_goes_and_never_what_is_in_use(store: ImageStore, faulty: FaultyRegistry) -> None:
    shared = {"shared": os.urandom(50_000)}
    found = [
        store.pull(faulty.push(name, image([shared, {name: os.urandom(100_000)}]))) for name in ("one", "two", "three")
    ]
    for age, one in enumerate(found):
        os.utime(store._lock_of(one.digest), (1_000 + age, 1_000 + age))
    assert store.size() == 350_000, "shared layers count once"
    store.hold(found[0])
    other = ImageStore(store.root)
    assert [one.image.digest for one in other.images() if one.in_use] == [found[0].digest]
    assert other.prune(260_000) == [found[1]]
    assert other.prune(0) == [found[2]], "what is in use stays, whoever asks"
    assert [one.image for one in other.images()] == [found[0]] and store.size() == 150_000
    store.release(found[0])
    assert other.prune(0) == [found[0]] and other.size() == 0 and not list((store.root / "layers").glob("[0-9a-f]*"))
    store.hold(found[0])
    assert store.layer(found[0].folders[0]).is_dir(), "what was removed is fetched again when it is needed"


def test_what_is_wanted_last_goes_first_where_the_order_is_known(store: ImageStore, faulty: FaultyRegistry) -> None:
    one, two, three = (store.pull(faulty.push(name, image([{name: os.urandom(100_000)}]))) for name in "abc")
    for age, image_ in enumerate((one, two, three)):  # by age alone the first would go
        os.utime(store._lock_of(image_.digest), (1_000 + age, 1_000 + age))
    other = ImageStore(store.root, coming=lambda: [two.digest, one.digest, two.digest, three.digest])
    assert other.prune(250_000) == [three] and other.prune(150_000) == [one]
    assert ImageStore(store.root, coming=lambda: []).prune(0) == [two]


def test_the_start_of_a_box_waits_for_room(tmp_path: Path, faulty: FaultyRegistry) -> None:
    """And fails with a word of its own where none comes; boxes that end make room."""
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            store.release(two)

    store = ImageStore(tmp_path / "store", budget=400_000, plaintext=[faulty.host], sleep=sleep)
    one, two = (store.pull(faulty.push(name, image([{name: os.urandom(120_000)}]))) for name in ("one", "two"))
    store.hold(two)
    store.hold(one)  # it had gone for the other
    assert len(waits) == 3 and store.image(one.digest) is not None
    assert (store.counts.misses, store.counts.evicted) == (3, 2) and store.counts.bytes > 240_000
    with pytest.raises(MachineError, match="budget"):
        store.hold(two)
    assert sum(waits[3:]) == 60


def test_a_budget_makes_room_and_says_when_it_cannot(tmp_path: Path, faulty: FaultyRegistry) -> None:
    store = ImageStore(tmp_path / "store", budget=400_000, plaintext=[faulty.host])
    one, two = (store.pull(faulty.push(name, image([{name: os.urandom(120_000)}]))) for name in ("one", "two"))
    assert [listed.image for listed in store.images()] == [two] and store.counts.evicted == 1
    store.hold(two)
    with pytest.raises(MachineError, match="budget"):
        store.pull(faulty.push("three", image([{"three": os.urandom(120_000)}])))
    assert one != two


def test_images_go_just_before_another_is_unpacked(
    store: ImageStore, faulty: FaultyRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look for room and the lock that keeps others from removing."""
    room = store._room

    def then_removed(*given: Any) -> None:
        room(*given)
        ImageStore(store.root).prune(0)

    monkeypatch.setattr(store, "_room", then_removed)
    found = store.pull(faulty.push("one", image([{"x": b"x"}])))
    assert (store.layer(found.folders[0]) / "x").read_bytes() == b"x"


def test_what_killed_processes_left_neither_counts_for_ever_nor_stays(
    store: ImageStore, faulty: FaultyRegistry
) -> None:
    """A layer's record without its files; half of a build; what was being read or removed."""
    store.pull(faulty.push("one", image([{"x": os.urandom(100_000)}])))
    (store.root / "layers" / f"{'0' * 26}.json").write_text('{"bytes": 1000000}')
    for name in (".build-a/x", "layers/.doomed-a/x", "layers/.unpack-a/x", "trees/.a/x", ".config-a/x", "blobs/a"):
        (store.root / name).parent.mkdir(parents=True, exist_ok=True)
        (store.root / name).touch()
    for name in ("trees/.a", ".config-a"):
        os.utime(store.root / name, (1, 1))
    (store.root / ".config-now").mkdir()
    assert store.size() == 1_100_000
    with store.building():
        assert store.prune(100_000) == [] and (store.root / ".build-a").is_dir()
    assert store.prune(100_000) == [] and store.size() == 100_000, "no image goes for what is not there"
    assert {path.name for path in store.root.iterdir()} >= {".config-now"}
    assert not [path for path in store.root.rglob("*a") if path.name.startswith((".", "a"))]


PULL = """
import sys
from pathlib import Path
from runtime.oci.store import ImageStore
print(ImageStore(Path(sys.argv[1]), plaintext=[sys.argv[2]]).pull(sys.argv[3]).digest)
"""


def test_two_processes_share(store: ImageStore, faulty: FaultyRegistry) -> None:
    made = image([{f"file{n}": os.urandom(100_000)} for n in range(4)])
    name = faulty.push("both", made)
    command = [sys.executable, "-c", PULL, str(store.root), faulty.host, name]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=60)[0].strip() for process in both] == [made.digest] * 2
    blobs = [
        path
        for path, _ in faulty.seen
        if "/blobs/" in path and path.rsplit("/", 1)[1] in json.dumps(json.loads(made.manifest)["layers"])
    ]
    assert len(blobs) == 4, "each layer is fetched once"
    assert len(store.images()) == 1


def test_the_command_line(faulty: FaultyRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    name = faulty.push("one", image([{"x": bytes(1 << 20)}]))
    app = build_app()

    def said(*words: str) -> dict[str, object]:
        done = CliRunner().invoke(app, ["images", *words, "--json"], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        found: dict[str, object] = json.loads(done.output)
        return found

    pulled = said("pull", name, "--plaintext", faulty.host)
    assert pulled["misses"] == 1
    listed = said("list")
    assert listed["bytes"] == 1 << 20
    assert said("prune", "--keep-gib", "1")["removed"] == []
    assert said("prune")["freed_bytes"] == 1 << 20 and said("list")["images"] == []
