"""What goes wrong in a run over many sources is one line, and costs what it must and no more."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from support.command import COUNTS, Cli, Ran, refused, renamed, write
from support.tiny import some_counts

import cellscribe
from cellscribe.atlas.claims import Claims, Worker, claim_bytes, claim_key
from cellscribe.atlas.job import Job
from cellscribe.atlas.listener import Listener
from cellscribe.atlas.memory import available_memory
from cellscribe.atlas.sources import find_shards
from cellscribe.atlas.stores import Folder
from cellscribe.atlas.worker import clear_scratch, work
from cellscribe.cells.source_lists import Shard
from cellscribe.config import EmbedOptions, ShardOptions
from cellscribe.inference.embed import Interrupted
from cellscribe.writing import OutputError

Embed = Callable[..., Ran]


@pytest.fixture
def atlas(tmp_path: Path) -> Path:
    folder = tmp_path / "atlas"
    folder.mkdir()
    for i in range(2):
        write(folder / f"part{i}.h5ad", some_counts(12, seed=i))
    return folder


@pytest.fixture
def embed(run: Cli, tiny_model: Path) -> Embed:
    return lambda *words: run("embed", *words, "--model", tiny_model, "--device", "cpu")


def in_python(atlas: Path, out: Path, model: Path, **more: Any) -> Any:
    options = EmbedOptions(device="cpu", precision="float32")
    return cellscribe.embed_files(atlas, out, options, model=model, log=lambda line: None, **more)


def test_words_that_cannot_be_meant(atlas: Path, tmp_path: Path, embed: Embed) -> None:
    out = tmp_path / "out"
    assert "no file has such a name" in refused(embed(f"{atlas}/*.zarr", "-o", out))
    assert "typo.h5ad: no such file" in refused(embed(atlas, tmp_path / "typo.h5ad", "-o", out))
    assert "no cells in it" in refused(embed(tmp_path / "atlas" / "..", "-o", out))
    (tmp_path / "other").mkdir()
    twin = write(tmp_path / "other" / "Part0.h5ad", some_counts(5))
    assert "two sources would give one file" in refused(embed(atlas, twin, "-o", out))
    assert "workers" in refused(embed(atlas, "-o", out, "--workers", 0))
    line = refused(embed(atlas, "-o", out, "--workers", 100_000))
    assert "100,000 workers need" in line
    assert "fit" in line
    assert not out.exists()
    (tmp_path / "list.txt").write_text("atlas/part0.h5ad\natlas/part1.h5ad\n")
    line = refused(embed(tmp_path / "list.txt", "-o", tmp_path / "x.npy"))
    assert "several sources give a file each: name a folder" in line
    file = tmp_path / "file"
    file.write_text("mine")
    assert str(file) in refused(embed(atlas, "-o", file))
    assert file.read_text() == "mine"


def test_a_source_in_the_output_folder_by_any_spelling(
    atlas: Path, tmp_path: Path, embed: Embed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(atlas)
    for out in (atlas, "atlas/", "./atlas", "link", "atlas/../link"):
        for source in ("atlas/part0.h5ad", "./link/part0.h5ad", atlas / "part0.h5ad"):
            assert "lies in the output folder" in refused(embed(source, "-o", out))
    (atlas / "x.zarr").mkdir()
    (atlas / "x.zarr" / "zarr.json").write_text("{}")
    line = refused(embed("link/x.zarr", "-o", atlas / "x.zarr" / "vectors"))
    assert "lies in the source link/x.zarr" in line
    assert sorted(p.name for p in atlas.iterdir()) == ["part0.h5ad", "part1.h5ad", "x.zarr"]


def test_other_genes_among_good_ones(atlas: Path, tmp_path: Path, embed: Embed) -> None:
    renamed(atlas / "proteins.h5ad", [f"CD{i}_TotalSeqB" for i in range(COUNTS.shape[1])])
    (atlas / "gone.h5ad").symlink_to(tmp_path / "nowhere")
    ran = embed(atlas, "-o", tmp_path / "out")
    assert ran.status == 1
    *_, count, first, second = ran.err.splitlines()
    assert count == "2 failed:"
    assert first.startswith("  gone      ")
    assert "No such file" in first
    assert second.startswith("  proteins  ")
    assert "2 of 4 shards, 24 cells" in ran.err
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [s["status"] for s in manifest["shards"]] == ["failed", "done", "done", "failed"]
    stopped = embed(atlas, "-o", tmp_path / "strict", "--strict")
    assert stopped.status == 2
    assert stopped.err.splitlines()[-1].startswith("cellscribe: ")


def test_a_folder_of_other_results(
    atlas: Path, tmp_path: Path, embed: Embed, tiny_model: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "part1.parquet").write_text("mine")
    assert "holds part1.parquet already" in refused(embed(atlas, "-o", out))
    assert (out / "part1.parquet").read_text() == "mine"
    (out / "part1.parquet").unlink()
    assert embed(atlas, "-o", out).status == 0
    before = {path.name: path.read_bytes() for path in out.glob("*.parquet")}
    assert "with another dtype" in refused(embed(atlas, "-o", out, "--dtype", "float16"))
    # both ways on which one source could get under a name of the run
    line = refused(embed(atlas / "part0.h5ad", "-o", out / "part0.parquet", "--overwrite"))
    assert "is a result of the run over many sources" in line
    job = out / ".cellscribe" / "job.json"
    whole = job.read_text()
    job.write_text(whole.replace('"format": 1', '"format": 2'))
    assert "of another version of cellscribe (format 2, here 1)" in refused(embed(atlas, "-o", out))
    job.write_text(whole[:20])
    assert "job.json is damaged" in refused(embed(atlas, "-o", out))
    assert before == {path.name: path.read_bytes() for path in out.glob("*.parquet")}


def test_a_source_that_goes_or_changes_meanwhile(
    atlas: Path, tmp_path: Path, tiny_model: Path
) -> None:
    class Meddles(Listener):
        def on_cells(self, shard: str, done: int, total: int) -> None:
            if shard == "part0":
                write(tmp_path / "new.h5ad", some_counts(9, seed=5)).rename(atlas / "part0.h5ad")
            elif shard == "part1":
                (atlas / "part1.h5ad").unlink(missing_ok=True)

    out = tmp_path / "out"
    found = in_python(atlas, out, tiny_model, listener=Meddles())
    assert "part0.h5ad changed while it was read" in found.failures["part0"]
    assert "part1.h5ad: No such file" in found.failures["part1"]
    assert list(out.glob("*.parquet")) == []
    assert in_python(atlas, out, tiny_model).n_cells == 9


def test_ctrl_c_frees_what_was_claimed(atlas: Path, tmp_path: Path, tiny_model: Path) -> None:
    class Interrupts(Listener):
        def on_cells(self, shard: str, done: int, total: int) -> None:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(Interrupted, match="the same command goes on from there"):
        in_python(atlas, out, tiny_model, listener=Interrupts())
    (claim,) = (out / ".cellscribe" / "claims").glob("*/*")
    assert claim.read_bytes() == b"{}"
    assert list((out / ".cellscribe" / "work").iterdir()) == []
    assert list(out.glob("*.parquet")) == []
    assert in_python(atlas, out, tiny_model).failures == {}


def test_a_full_disk_leaves_the_shard_to_others(
    atlas: Path, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cellscribe.atlas import run as room

    real = room.embed_cells
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fails(session: Any, cells: Any, path: Path, *more: Any, **named: Any) -> Any:
        path.write_text("half")
        raise OutputError(f"{path} cannot be written: the disk is full") from full

    out = tmp_path / "out"
    monkeypatch.setattr(room, "embed_cells", fails)
    with pytest.raises(OutputError, match="the disk is full"):
        in_python(atlas, out, tiny_model)
    assert list(out.glob("*.parquet")) == []
    assert list((out / ".cellscribe" / "work").iterdir()) == []
    (claim,) = (out / ".cellscribe" / "claims").glob("*/*")
    assert claim.read_bytes() == b"{}"
    monkeypatch.setattr(room, "embed_cells", real)
    assert in_python(atlas, out, tiny_model).failures == {}


def test_a_folder_without_hard_links(
    atlas: Path, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*names: Any, **more: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuses)
    out = tmp_path / "out"
    assert in_python(atlas, out, tiny_model).failures == {}
    alone = cellscribe.embed(
        atlas / "part0.h5ad", model=tiny_model, device="cpu", precision="float32"
    )
    got = np.stack(pd.read_parquet(out / "part0.parquet")["embedding"])
    np.testing.assert_array_equal(got, alone)
    store = Folder(tmp_path / "store")
    assert store.create("a/key", b"1")
    assert not store.create("a/key", b"2")
    assert store.read("a/key") == b"1"


def test_a_claim_that_is_being_written_is_nobody_elses(tmp_path: Path) -> None:
    now = [0.0]
    store = Folder(tmp_path)
    store.create("claims/a/00001", b"")
    other = Claims(store, ["a"], Worker(), patience=10, clock=lambda: now[0])
    assert other.take("a") is None
    now[0] = 11.0
    taken = other.take("a")
    assert taken is not None
    assert taken.number == 2


def test_clocks_that_are_hours_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker believes another's clock, and the time of day plays no part."""
    store = Folder(tmp_path)
    begun = {"late": 1e5, "early": -1e5}
    now = dict(begun)
    late, early = (
        Claims(store, ["a"], Worker(since=begun[who]), patience=60, clock=lambda who=who: now[who])
        for who in begun
    )
    claim = late.take("a")
    assert claim is not None
    os.utime(tmp_path / "claims" / "a" / "00001", (0, 0))
    for _ in range(20):
        now = {who: time + 30 for who, time in now.items()}
        claim.pulse()
        assert early.take("a") is None
    now["early"] += 61
    assert early.take("a") is not None
    assert not claim.holds()


def test_what_other_memory_is_bounded_by(tmp_path: Path) -> None:
    assert available_memory(tmp_path) is None

    def tell(name: str, text: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    tell("proc/meminfo", "MemTotal: 9000 kB\nMemFree: 10 kB\nMemAvailable: 5000 kB\n")
    assert available_memory(tmp_path) == 5000 * 1024
    tell("proc/self/cgroup", "0::/job/step\n")
    group = "sys/fs/cgroup/job"
    tell(f"{group}/memory.max", "3000000\n")
    tell(f"{group}/memory.current", "1000000\n")
    tell(f"{group}/memory.stat", "anon 5\ninactive_file 400000\n")
    tell(f"{group}/step/memory.max", "max\n")
    assert available_memory(tmp_path) == 2_400_000
    tell("proc/self/cgroup", "7:cpu:/x\n4:memory:/job/step\n")
    tell("sys/fs/cgroup/memory/memory.limit_in_bytes", "2000000\n")
    tell("sys/fs/cgroup/memory/memory.usage_in_bytes", "500000\n")
    assert available_memory(tmp_path) == 1_500_000


def test_a_column_that_no_source_has_is_refused_at_the_start(
    atlas: Path, tmp_path: Path, embed: Embed
) -> None:
    cells = ad.read_h5ad(atlas / "part1.h5ad")
    cells.obs["cell_type"] = "T cell"
    cells.write_h5ad(atlas / "part1.h5ad")
    (atlas / "broken.h5ad").write_text("")
    line = refused(embed(atlas, "-o", tmp_path / "out", "--obs", "cell_typ"))
    assert "the 3 sources: obs has no column 'cell_typ' (--obs); near it: cell_type" in line
    assert not (tmp_path / "out").exists()
    # one has it: null for the others
    ran = embed(atlas, "-o", tmp_path / "out", "--obs", "cell_type")
    assert ran.status == 1
    assert "Warning: part0: obs has no column 'cell_type': null." in ran.err


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[:1])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OutputError, match=r"manifest\.json cannot be written: the disk is full"):
        Folder(tmp_path).write("manifest.json", b"{}")
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_slept_too_long_goes_on_with_other_shards(
    atlas: Path, tmp_path: Path
) -> None:
    job = Job(tmp_path / "out", {"verb": "stub"}, ".parquet")
    other = Worker()

    def make(shard: Shard, path: Path, progress: Any) -> dict[str, Any]:
        path.write_text(f"ours of {shard.name}")
        if shard.name == "part0":  # another takes us for dead, and clears up after us
            job.state.create(claim_key("part0", 2), claim_bytes(other, 0))
            clear_scratch(job, claim_key("part0", 1))
            job.state.create("done/part0", b'{"sha256": "theirs"}')
        return {}

    claims = work(job, find_shards([atlas]), make, patience=60, listener=Listener())
    assert claims.open() == []
    assert [path.name for path in (tmp_path / "out").glob("*.parquet")] == ["part1.parquet"]
    assert job.state.read("failed/part0/00001") is None
    assert list((tmp_path / "out" / ".cellscribe" / "work").iterdir()) == []


def test_what_a_killed_run_left_is_removed_by_the_next(
    atlas: Path, tmp_path: Path, tiny_model: Path
) -> None:
    out, killed = tmp_path / "out", Worker()
    left = out / ".cellscribe" / "work" / killed.token
    left.mkdir(parents=True)
    (left / "part0.parquet.partial").write_text("half")
    Folder(out / ".cellscribe").create(claim_key("part0", 1), claim_bytes(killed, 3))
    assert in_python(atlas, out, tiny_model, sharing=ShardOptions(patience=0.1)).failures == {}
    assert list(left.parent.iterdir()) == []
