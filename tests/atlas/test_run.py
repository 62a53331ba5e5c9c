"""Many sources to many results: the same vectors as one by one, whoever works on them."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from support.command import Cli, refused, write
from support.tiny import some_counts

import cellscribe
from cellscribe.atlas.listener import Listener
from cellscribe.atlas.run import Run, run_shards
from cellscribe.atlas.sources import find_shards
from cellscribe.config import EmbedOptions, ShardOptions
from cellscribe.errors import InputError

N_SHARDS = 4


@pytest.fixture
def atlas(tmp_path: Path) -> Path:
    folder = tmp_path / "atlas"
    folder.mkdir()
    for i in range(N_SHARDS):
        write(folder / f"part{i}.h5ad", some_counts(20 + i, seed=i))
    return folder


class Said(Listener):
    """Keeps what it hears."""

    def __init__(self, said: list[str]) -> None:
        self.said = said
        self.cells: dict[str, tuple[int, int]] = {}

    def on_shard(self, shard: str, what: str) -> None:
        self.said.append(f"{shard} {what}")

    def on_cells(self, shard: str, done: int, total: int) -> None:
        self.cells[shard] = (done, total)


def run_all(
    atlas: Path, out: Path, model: Path, said: list[str] | None = None, **sharing: Any
) -> Run:
    said = [] if said is None else said
    return run_shards(
        find_shards([atlas]),
        out,
        EmbedOptions(model=str(model), device="cpu", precision="float32"),
        ShardOptions(**sharing),
        log=said.append,
        listener=Said(said),
    )


def vectors(path: Path) -> np.ndarray:
    return np.stack(pd.read_parquet(path)["embedding"])


def test_each_source_has_its_vectors_and_its_line(
    atlas: Path, tmp_path: Path, tiny_model: Path
) -> None:
    out, said = tmp_path / "out", []
    found = run_all(atlas, out, tiny_model, said)
    assert sorted(said) == [f"part{i} done" for i in range(N_SHARDS)]
    assert found.failures == {}
    assert found.n_cells == sum(20 + i for i in range(N_SHARDS))
    for i in range(N_SHARDS):
        alone = cellscribe.embed(
            atlas / f"part{i}.h5ad", model=tiny_model, device="cpu", precision="float32"
        )
        np.testing.assert_array_equal(vectors(out / f"part{i}.parquet"), alone)
    manifest = json.loads((out / "manifest.json").read_text())
    assert [s["name"] for s in manifest["shards"]] == [f"part{i}" for i in range(N_SHARDS)]
    assert {s["status"] for s in manifest["shards"]} == {"done"}
    assert sorted(p.name for p in out.iterdir()) == [
        ".cellscribe", "manifest.json", *(f"part{i}.parquet" for i in range(N_SHARDS))
    ]  # fmt: skip
    assert list((out / ".cellscribe" / "work").iterdir()) == []


def test_a_rerun_does_what_is_missing_or_has_changed(
    atlas: Path, tmp_path: Path, tiny_model: Path
) -> None:
    out = tmp_path / "out"
    run_all(atlas, out, tiny_model)
    said: list[str] = []
    (out / "part1.parquet").unlink()
    write(atlas / "part2.h5ad", some_counts(33, seed=9))
    write(atlas / "part9.h5ad", some_counts(8, seed=8))
    found = run_all(atlas, out, tiny_model, said)
    assert sorted(said) == [
        "changed since they were embedded, so embedded again: part2",
        "part1 done", "part2 done", "part9 done",
    ]  # fmt: skip
    assert len(vectors(out / "part2.parquet")) == 33
    assert found.n_cells == 20 + 21 + 33 + 23 + 8


def test_a_bad_source_is_listed_and_tried_again(
    atlas: Path, tmp_path: Path, tiny_model: Path
) -> None:
    out = tmp_path / "out"
    (atlas / "part1.h5ad").write_bytes(b"no cells")
    found = run_all(atlas, out, tiny_model)
    assert list(found.failures) == ["part1"]
    assert "part1.h5ad" in found.failures["part1"]
    assert not (out / "part1.parquet").exists()
    assert (out / "part3.parquet").exists()
    write(atlas / "part1.h5ad", some_counts(21, seed=1))
    assert run_all(atlas, out, tiny_model).failures == {}
    (atlas / "part7.h5ad").write_bytes(b"no cells")
    with pytest.raises(InputError, match=r"part7\.h5ad"):
        run_all(atlas, out, tiny_model, strict=True)


def test_results_of_another_model_or_options_are_kept(
    atlas: Path, tmp_path: Path, tiny_model: Path
) -> None:
    out = tmp_path / "out"
    run_all(atlas, out, tiny_model)
    before = (out / "part0.parquet").read_bytes()
    with pytest.raises(InputError, match="holds results made with another dtype"):
        run_shards(
            find_shards([atlas]),
            out,
            EmbedOptions(model=str(tiny_model), device="cpu", precision="float32", dtype="float16"),
            ShardOptions(),
            log=lambda line: None,
        )
    assert (out / "part0.parquet").read_bytes() == before


def test_several_processes_make_the_same_even_if_one_is_killed(
    atlas: Path, tmp_path: Path, tiny_model: Path
) -> None:
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    run_all(atlas, alone, tiny_model)
    said: list[str] = []

    class KillsOne(Said):
        def on_shard(self, shard: str, what: str) -> None:
            super().on_shard(shard, what)
            if len(said) == 1:
                here = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
                children = here.read_text().split()
                workers = [
                    int(pid)
                    for pid in children
                    if b"cellscribe.atlas.child" in Path(f"/proc/{pid}/cmdline").read_bytes()
                ]
                os.kill(workers[0], signal.SIGKILL)

    listener = KillsOne(said)

    found = run_shards(
        find_shards([atlas]),
        shared,
        EmbedOptions(model=str(tiny_model), device="cpu", precision="float32"),
        ShardOptions(workers=2, patience=600),
        log=said.append,
        listener=listener,
    )
    assert found.failures == {}
    assert any("died" in line for line in said)
    assert listener.cells == {f"part{i}": (20 + i, 20 + i) for i in range(N_SHARDS)}
    for i in range(N_SHARDS):
        name = f"part{i}.parquet"
        np.testing.assert_array_equal(vectors(alone / name), vectors(shared / name))


def test_a_large_source_is_cut_and_joined_again(tmp_path: Path, tiny_model: Path) -> None:
    source, out = write(tmp_path / "large.h5ad", some_counts(50)), tmp_path / "out"
    found = run_shards(
        find_shards([source]),
        out,
        EmbedOptions(model=str(tiny_model), device="cpu", precision="float32"),
        ShardOptions(rows_per_shard=16),
        log=lambda line: None,
    )
    assert [shard["cells"] for shard in found.manifest["shards"]] == [16, 16, 16, 2]
    assert cellscribe.collect(out, tmp_path / "all.parquet") == 50
    joined = pd.read_parquet(tmp_path / "all.parquet")
    assert list(joined["cell_id"]) == [f"cell{i}" for i in range(50)]
    assert list(joined["source"].unique()) == ["large"]
    alone = cellscribe.embed(source, model=tiny_model, device="cpu", precision="float32")
    np.testing.assert_array_equal(np.stack(joined["embedding"]), alone)


def test_a_column_that_one_source_lacks_is_null_there_and_told(
    atlas: Path, tmp_path: Path, tiny_model: Path
) -> None:
    donors = [f"d{i % 3}" for i in range(20)]
    adata = ad.read_h5ad(atlas / "part0.h5ad")
    adata.obs["donor"] = donors
    adata.write_h5ad(atlas / "part0.h5ad")
    out, options = tmp_path / "out", {"model": tiny_model, "log": lambda line: None}
    wanted = EmbedOptions(device="cpu", obs=("donor",))
    found = cellscribe.embed_files(atlas, out, wanted, **options)
    assert pd.read_parquet(out / "part0.parquet")["donor"].tolist() == donors
    assert pd.read_parquet(out / "part1.parquet")["donor"].isna().all()
    told = [shard["warnings"] for shard in found.manifest["shards"]]
    assert ["obs has no column 'donor': null." in lines for lines in told] == [False] + 3 * [True]
    with pytest.raises(InputError, match=r"another obs \(\['donor'\], now \[\]\)"):
        cellscribe.embed_files(atlas, out, EmbedOptions(device="cpu"), **options)
    with pytest.raises(InputError, match=r"part1\.h5ad: obs has no column 'donor'"):
        cellscribe.embed_files(
            [atlas / "part1.h5ad"],
            tmp_path / "strict",
            wanted,
            sharing=ShardOptions(strict=True),
            **options,
        )
    with pytest.raises(InputError, match=r"a \.npy has no place for columns"):
        cellscribe.embed_files(
            atlas, tmp_path / "npy", wanted, sharing=ShardOptions(form="npy"), **options
        )


def test_a_list_names_a_layer_for_each_source(
    atlas: Path, tmp_path: Path, tiny_model: Path
) -> None:
    adata = ad.read_h5ad(atlas / "part0.h5ad")
    adata.layers["half"] = np.asarray(adata.X // 2)
    adata.write_h5ad(atlas / "part0.h5ad")
    table, out = tmp_path / "list.csv", tmp_path / "out"
    options = {"model": tiny_model, "log": lambda line: None}
    found = []
    for layer in ("", "half"):
        table.write_text(f"path,name,layer\natlas/part0.h5ad,a,{layer}\natlas/part1.h5ad,b,\n")
        run = cellscribe.embed_files(table, out, EmbedOptions(device="cpu"), **options)
        assert run.failures == {}
        found.append(run.manifest["shards"])
        alone = cellscribe.embed(
            atlas / "part0.h5ad", model=tiny_model, layer=layer or "X", device="cpu"
        )
        np.testing.assert_array_equal(vectors(out / "a.parquet"), alone)
    (before, other), (after, same) = found
    assert (before.get("layer"), after["layer"]) == (None, "half")
    assert before["counts_hash"] != after["counts_hash"]
    assert other == same


def test_tokens_are_joined_and_embedded_as_tokens(
    atlas: Path, tmp_path: Path, tiny_model: Path
) -> None:
    out, joined = tmp_path / "out", tmp_path / "all.parquet"
    cellscribe.tokenize_files(atlas, out, model=tiny_model, log=lambda line: None)
    assert cellscribe.collect(out, joined) == 86
    options = {"model": tiny_model, "device": "cpu", "precision": "float32"}
    alone = [cellscribe.embed(atlas / f"part{i}.h5ad", **options) for i in range(N_SHARDS)]
    got = cellscribe.embed(joined, **options)
    np.testing.assert_allclose(got, np.concatenate(alone), atol=1e-5)


def test_collect_refuses_what_is_not_whole(atlas: Path, tmp_path: Path, tiny_model: Path) -> None:
    out = tmp_path / "out"
    (atlas / "part1.h5ad").write_bytes(b"no cells")
    run_all(atlas, out, tiny_model)
    with pytest.raises(InputError, match=r"part1 has no result \(.*run embed again first"):
        cellscribe.collect(out, tmp_path / "all.npy")
    write(atlas / "part1.h5ad", some_counts(21, seed=1))
    run_all(atlas, out, tiny_model)
    path = out / "part2.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"part2\.parquet is missing or not as it was written"):
        cellscribe.collect(out, tmp_path / "all.npy")
    with pytest.raises(InputError, match="has no readable manifest"):
        cellscribe.collect(atlas, tmp_path / "all.npy")
    with pytest.raises(InputError, match="lies in the output folder"):
        cellscribe.embed_files([path], out, model=tiny_model)


@pytest.mark.parametrize("verb", ["embed", "tokenize"])
def test_a_dry_run_looks_at_every_source_and_writes_nothing(
    verb: str, atlas: Path, tmp_path: Path, tiny_model: Path, run: Cli
) -> None:
    (atlas / "bad.h5ad").write_bytes(b"no cells")
    out = tmp_path / "out"
    words = ("-o", out, "--model", tiny_model, "--dry-run", "--rows-per-shard", 10)
    ran = run(verb, atlas, *words)
    assert ran.status == 1, ran
    *lines, last = (line.split("\t") for line in ran.out.splitlines())
    assert lines[0][0] == "bad"
    assert "bad.h5ad: not an HDF5 file" in lines[0][1]
    for i, (name, cells, size, shards) in enumerate(lines[1:]):
        assert (name, cells) == (f"part{i}", f"{20 + i} cells")
        assert size == f"{(atlas / f'part{i}.h5ad').stat().st_size / 1e6:.1f} MB"
        assert shards == f"{2 if i == 0 else 3} shards"
    assert last[0].startswith("5 sources (1 bad), 11 shards, 86 cells, ")
    speed = float(last[0].partition(" at ")[2].partition(" cells/s")[0].replace(",", ""))
    assert speed > 0
    assert not out.exists()
    (atlas / "bad.h5ad").unlink()
    assert run(verb, atlas, *words).status == 0


def test_the_command_line_lists_failures_with_status_1(
    atlas: Path, tmp_path: Path, tiny_model: Path, run: Cli
) -> None:
    (atlas / "bad.h5ad").write_bytes(b"no cells")
    out = tmp_path / "out"
    ran = run("embed", f"{atlas}/*.h5ad", "-o", out, "--model", tiny_model, "--device", "cpu")
    assert ran.status == 1
    assert ran.out == f"{out}\n"
    assert "4 of 5 shards, 86 cells" in ran.err
    assert f"1 failed:\n  bad  {atlas}/bad.h5ad: not an HDF5 file" in ran.err
    again = run("tokenize", atlas / "part0.h5ad", "-o", tmp_path / "t", "--model", tiny_model)
    assert again.status == 0, again
    assert (tmp_path / "t" / "part0.parquet").exists()
    wrong = run("embed", atlas, "-o", tmp_path / "x.npy", "--model", tiny_model, "--workers", 2)
    assert "--workers and the like are for an output folder" in refused(wrong)


def test_tokens_and_vectors_of_the_same_counts_have_the_same_hash(
    atlas: Path, tmp_path: Path, tiny_model: Path
) -> None:
    embedded = run_all(atlas, tmp_path / "out", tiny_model)
    tokens = cellscribe.tokenize_files(atlas, tmp_path / "tokens", model=tiny_model)
    half = cellscribe.embed_files(
        atlas, tmp_path / "half", EmbedOptions(dtype="float16", device="cpu"), model=tiny_model
    )
    hashes = [
        [shard["counts_hash"] for shard in found.manifest["shards"]]
        for found in (embedded, tokens, half)
    ]
    assert hashes[0] == hashes[1] == hashes[2]
    assert tokens.manifest["shards"][0]["warnings"] == [
        "1 cell without a count on a gene that the model knows."
    ]
    assert len(set(hashes[0])) == N_SHARDS
