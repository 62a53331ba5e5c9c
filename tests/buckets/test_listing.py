"""What a URL with a pattern stands for, and by how many listings it is found."""

from __future__ import annotations

import pytest
from support.s3 import Faults
from support.web import Site

from cellscribe.buckets.bucket import Bucket
from cellscribe.buckets.listing import list_remote, look_at
from cellscribe.errors import InputError

ENDINGS = (".h5ad", ".zarr")
KEYS = (
    *("a b.h5ad", "a#1.h5ad", "a%20.h5ad", "é中.h5ad", "notes.txt"),
    *("z.zarr/zarr.json", "z.zarr/X/c/0", "sub/q.h5ad", "sub/deep/r.h5ad", "sub/y.zarr/zarr.json"),
)


@pytest.fixture
def store(faults: Faults) -> Bucket:
    found = Bucket("s3://bucket/list")
    for key in KEYS:
        found.write(key, key.encode())
    faults.seen.clear()
    return found


FILES = ["a b.h5ad", "a#1.h5ad", "a%20.h5ad", "é中.h5ad"]


@pytest.mark.parametrize(
    ("pattern", "keys", "listings"),
    [
        ("*.h5ad", FILES, 1),
        ("", sorted([*FILES, "z.zarr"]), 1),
        ("a#*", ["a#1.h5ad"], 1),
        ("*/q.h5ad", ["sub/q.h5ad"], 2),
        ("*.zarr", ["z.zarr"], 1),
        ("*/*", ["sub/q.h5ad", "sub/y.zarr"], 2),
        ("**/*.h5ad", sorted([*FILES, "sub/deep/r.h5ad", "sub/q.h5ad"]), 1),
        ("**", sorted([*FILES, "sub/deep/r.h5ad", "sub/q.h5ad", "sub/y.zarr", "z.zarr"]), 1),
    ],
)
def test_patterns(
    store: Bucket, faults: Faults, pattern: str, keys: list[str], listings: int
) -> None:
    found = list_remote(f"{store.name}/{pattern}", ENDINGS)
    assert [remote.url.removeprefix(f"{store.name}/") for remote in found] == keys
    listed = [request for request in faults.seen if "list-type" in request]
    assert len(listed) == listings
    assert not any("z.zarr" in request for request in listed)
    sizes = {remote.url: remote.size for remote in found}
    for key in set(keys) & set(KEYS):
        assert sizes[f"{store.name}/{key}"] == len(key.encode())


def test_a_store_with_a_slash_at_its_end_is_no_folder(store: Bucket) -> None:
    (found,) = list_remote(f"{store.name}/z.zarr/", ENDINGS)
    assert found.url == f"{store.name}/z.zarr"


def test_names_that_look_like_patterns_are_names(store: Bucket) -> None:
    store.write("odd[1].h5ad", b"x")
    (found,) = list_remote(f"{store.name}/odd[1].h5ad", ENDINGS)
    assert (found.url, found.size) == (f"{store.name}/odd[1].h5ad", 1)


def test_a_source_is_told_from_what_was_there_before(store: Bucket) -> None:
    urls = [f"{store.name}/{key}" for key in ("a#1.h5ad", "z.zarr", "none.h5ad", "none.zarr")]
    before = [look_at(url) for url in urls]
    assert [remote.etag is None for remote in before] == [False, False, True, True]
    assert [look_at(url) for url in urls] == before
    store.write("a#1.h5ad", b"other")
    store.write("z.zarr/zarr.json", b"other")
    after = [look_at(url) for url in urls]
    assert [a != b for a, b in zip(before, after, strict=True)] == [True, True, False, False]
    (listed,) = list_remote(f"{store.name}/a#*", ENDINGS)
    assert listed == after[0]


def test_what_names_nothing_is_one_line(store: Bucket, site: Site) -> None:
    with pytest.raises(InputError, match=r"\*\.zzz: nothing there has such a name"):
        list_remote(f"{store.name}/*.zzz")
    with pytest.raises(InputError, match="s3://nowhere: no such bucket; check the name"):
        list_remote("s3://nowhere/x/*.h5ad")
    with pytest.raises(InputError, match="s3://bucket: a bucket and no object in it"):
        look_at("s3://bucket")
    with pytest.raises(InputError, match="the web lists no folders"):
        list_remote(f"{site.address}/plain/*.h5ad")
