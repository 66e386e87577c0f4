"""Images fetched before who wants them: in order, within the budget, never in the way of a box, and given up at the
end."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from runtime.oci.store import ImageStore
from runtime.oci.types import Image
from runtime.sandboxes.ahead import Announced, FetchAhead, Stopped, Wanted
from runtime.sandboxes.bubblewrap import StoreShelf
from tests.oci_images import image
from tests.runtime.oci.conftest import FaultyRegistry

SIZE = 100_000


def published(faulty: FaultyRegistry, tmp_path: Path, names: str) -> dict[str, Wanted]:
    """Images of a registry, as a run's tasks have named them; none is in the store that a test uses."""
    elsewhere = ImageStore(tmp_path / "elsewhere", plaintext=[faulty.host])
    made = {name: elsewhere.pull(faulty.push(name, image([{name: os.urandom(SIZE)}]))) for name in names}
    faulty.seen.clear()
    return {name: Wanted(one.digest, one.reference, one.bytes) for name, one in made.items()}


def all_of(ahead: FetchAhead) -> None:
    while ahead.one():
        pass


def layers(faulty: FaultyRegistry) -> list[str]:
    """Of which images layers were sent, in that order (the first blob of an image is its configuration)."""
    names = [path.split("/")[2] for path, _ in faulty.seen if "/blobs/" in path]
    return list(dict.fromkeys(names))


def test_what_comes_is_fetched_in_its_order_and_not_beyond_the_count(tmp_path: Path, faulty: FaultyRegistry) -> None:
    found = published(faulty, tmp_path, "abcde")
    store = ImageStore(tmp_path / "store", plaintext=[faulty.host])
    built = Wanted("sha256:" + "0" * 64, "built:x")
    said = Announced(now=(found["c"], built), coming=(found["a"], found["e"], found["b"]))
    ahead = FetchAhead(StoreShelf(store), lambda: said, images=2)
    all_of(ahead)
    assert layers(faulty) == ["c", "a", "e"]
    assert (store.counts.ahead, store.counts.hits, store.counts.misses) == (3, 0, 0)
    for name in "ca":
        store.hold(image_of(store, found[name]))
    assert (store.counts.hits, store.counts.misses, store.counts.seconds) == (2, 0, 0.0), "no box has waited"


def image_of(store: ImageStore, wanted: Wanted) -> Image:
    found = store.image(wanted.digest)
    assert found is not None
    return found


def test_what_is_wanted_sooner_or_in_use_is_never_removed_for_it(tmp_path: Path, faulty: FaultyRegistry) -> None:
    found = published(faulty, tmp_path, "abcdu")
    announced: list[Wanted] = [found[name] for name in "abc"]
    store = ImageStore(
        tmp_path / "store",
        plaintext=[faulty.host],
        budget=int(4.5 * SIZE),
        coming=lambda: [one.digest for one in announced],
    )
    used = store.pull(found["u"].reference)
    store.hold(used)
    old = store.pull(found["d"].reference)
    ahead = FetchAhead(StoreShelf(store), lambda: Announced(coming=tuple(announced)), images=9)
    all_of(ahead)
    here = {name for name in "abcdu" if store.image(found[name].digest) is not None}
    assert here == {"a", "u"}, (
        "three times its size is set aside while an image is unpacked: there is room for one more"
    )
    assert store.size() <= int(4.5 * SIZE) and store.image(old.digest) is None, "nobody had announced it"
    evicted = store.counts.evicted
    all_of(ahead)
    assert store.counts.evicted == evicted, "nothing goes for what has no room all the same"
    announced.reverse()  # now c comes first, and a last
    all_of(ahead)
    assert {name for name in "abcdu" if store.image(found[name].digest) is not None} == {"c", "u"}


def test_it_makes_way_for_a_box_and_ends_with_its_run(tmp_path: Path, faulty: FaultyRegistry) -> None:
    found = published(faulty, tmp_path, "ab")
    store = ImageStore(tmp_path / "store", plaintext=[faulty.host])
    # At this rate an image takes a thousand seconds.
    said = Announced(coming=(found["a"],))
    slow = FetchAhead(StoreShelf(store), lambda: said, images=1, mib_per_sec=SIZE / 1000 / (1 << 20))
    slow.start()
    while not list((store.root / "blobs").glob("*")):
        time.sleep(0.02)
    other = image_of(ImageStore(tmp_path / "elsewhere"), found["b"])
    box = threading.Thread(target=store.hold, args=(other,))
    box.start()
    box.join(60)
    assert not box.is_alive() and store.counts.misses == 1
    slow.close()
    assert store.image(found["a"].digest) is None, "given up, not waited for"
    assert store.counts.ahead == 0
    quick = FetchAhead(StoreShelf(store), lambda: said, images=1)
    all_of(quick)
    assert store.image(found["a"].digest) is not None, "what was given up is no harm"


def test_a_bound_of_the_line_is_kept(tmp_path: Path, faulty: FaultyRegistry) -> None:
    found = published(faulty, tmp_path, "a")
    store = ImageStore(tmp_path / "store", plaintext=[faulty.host])
    said = Announced(coming=(found["a"],))
    began = time.monotonic()
    all_of(FetchAhead(StoreShelf(store), lambda: said, images=1, mib_per_sec=SIZE / 0.3 / (1 << 20)))
    assert time.monotonic() - began >= 0.25 and store.counts.ahead == 1


def test_what_cannot_be_had_is_left_to_its_box(
    tmp_path: Path, faulty: FaultyRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    found = published(faulty, tmp_path, "ab")
    del faulty.images["a"]
    store = ImageStore(tmp_path / "store", plaintext=[faulty.host])
    ahead = FetchAhead(StoreShelf(store), lambda: Announced(coming=(found["a"], found["b"])), images=2)
    all_of(ahead)
    all_of(ahead)
    assert store.image(found["b"].digest) is not None, "the others go on"
    assert [one.getMessage().count("not fetched ahead") for one in caplog.records] == [1], "said once"
    with pytest.raises(Stopped):
        ahead.close()
        ahead._pace(1)
