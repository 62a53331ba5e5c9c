"""Rows of two inputs, or of two models, are never joined, and nothing that was changed is used."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from support.formats import annotated, write_zarr
from support.runs import BLOCK, N_CELLS, Run, folder_of, same_bytes, state_of
from support.tiny import WIDTH, real_genes, some_counts

from cellscribe.errors import InputError
from cellscribe.inference import outputs
from cellscribe.inference.embed import Interrupted
from cellscribe.inference.inputs import InputChangedError, InputFiles, hash_block
from cellscribe.inference.resume import BLOCK_RECORD

pytestmark = pytest.mark.usefixtures("small_blocks")
COUNTS = sp.csr_matrix(some_counts(N_CELLS))


def cells(path: Path, x: Any = COUNTS) -> Path:
    adata = annotated(x, real_genes)
    if path.suffix == ".zarr":
        write_zarr(adata, path)
    else:
        adata.write_h5ad(path)
    return path


def swap_values(path: Path, row: int) -> None:
    """Turn the counts of one cell round in the file, whose size stays."""
    with h5py.File(path, "r+") as file:
        start, stop = file["X/indptr"][row : row + 2]
        file["X/data"][start:stop] = file["X/data"][start:stop][::-1]


def stop(run: Run, out: Path, **options: Any) -> int:
    with pytest.raises(Interrupted):
        run(out, stop_after=50, **options)
    return int(state_of(out)["done"])


@pytest.mark.parametrize("hide", [False, True])
def test_counts_that_were_changed_where_rows_are_done(hide: bool, run: Run, tmp_path: Path) -> None:
    source, out = cells(tmp_path / "in.h5ad"), tmp_path / "out.npy"
    stop(run, out, source=source)
    before = source.stat()
    swap_values(source, 20)
    if hide:
        os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert source.stat().st_size == before.st_size
    with pytest.raises(InputError, match="another input; cells 16 to 31 had other counts;"):
        run(out, source=source, resume=True)
    assert state_of(out)["done"] > 0
    run(out, source=source, overwrite=True)
    run(tmp_path / "whole.npy", source=source)
    same_bytes(out, tmp_path / "whole.npy")


def test_counts_that_were_changed_where_no_row_is_done(run: Run, tmp_path: Path) -> None:
    source, out = cells(tmp_path / "in.h5ad"), tmp_path / "out.npy"
    done = stop(run, out, source=source)
    swap_values(source, 95)
    assert done <= 95
    run(out, source=source, resume=True)
    run(tmp_path / "whole.npy", source=source)
    same_bytes(out, tmp_path / "whole.npy")


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_an_input_that_was_only_copied_is_gone_on_with(
    suffix: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = cells(tmp_path / f"in{suffix}"), tmp_path / "out.npy"
    stop(run, out, source=source)
    moved = tmp_path / f"moved{suffix}"
    os.rename(source, moved)
    (shutil.copytree if moved.is_dir() else shutil.copyfile)(moved, source)
    run(out, source=source, resume=True)
    run(tmp_path / "whole.npy", source=source)
    same_bytes(out, tmp_path / "whole.npy")


def test_cells_in_memory_are_compared(run: Run, tmp_path: Path) -> None:
    out, adata = tmp_path / "out.npy", annotated(COUNTS, real_genes)
    stop(run, out, source=adata)
    other = adata.copy()
    other.X.data[0] += 1
    with pytest.raises(InputError, match="another input; cells 0 to 15 had other counts"):
        run(out, source=other, resume=True)
    run(out, source=adata, resume=True)


def test_other_genes_are_another_input(run: Run, tmp_path: Path) -> None:
    out, adata = tmp_path / "out.npy", annotated(COUNTS, real_genes)
    stop(run, out, source=adata)
    # the same names of rows, and another gene behind one of them
    adata.var["gene_ids"] = [*adata.var["gene_ids"][1:], adata.var["gene_ids"].iloc[0]]
    with pytest.raises(InputError, match="another input;"):
        run(out, source=adata, resume=True, gene_key="gene_ids")


@pytest.mark.parametrize(
    ("field", "value"),
    [("layer_norm_eps", 1e-3), ("hidden_act", "gelu_new"), ("num_hidden_layers", 1)],
)
def test_a_model_whose_configuration_was_changed(
    field: str, value: Any, run: Run, tiny_model: Path, tmp_path: Path
) -> None:
    model, out = tmp_path / "model", tmp_path / "out.npy"
    shutil.copytree(tiny_model, model)
    stop(run, out, model=str(model))
    config = json.loads((model / "config.json").read_text())
    assert config[field] != value
    (model / "config.json").write_text(json.dumps(config | {field: value}))
    with pytest.raises(InputError):
        run(out, model=str(model), resume=True)
    assert not out.exists()


# While it is read


Change = Callable[[Path], Any]


def replaced(path: Path) -> None:
    other = cells(path.with_name("other.h5ad"), COUNTS[::-1])
    os.replace(other, path)


def written_to(path: Path) -> None:
    """As another program would, past HDF5's locks."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size - 1)
        last = file.read(1)
        file.seek(path.stat().st_size - 1)
        file.write(last)


def grown(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


CHANGES: dict[str, tuple[Change, str]] = {
    "replaced": (replaced, "was changed"),
    "written to": (written_to, "was changed"),
    "grown": (grown, "was changed"),
    "removed": (Path.unlink, "was moved or removed"),
    "moved": (lambda path: path.rename(path.with_name("moved")), "was moved or removed"),
}


@pytest.mark.parametrize("suffix", [".npy", ".h5ad"])
@pytest.mark.parametrize(("change", "told"), CHANGES.values(), ids=CHANGES)
def test_a_file_that_changes_stops_the_run(
    change: Change, told: str, suffix: str, tiny_model: Path, tmp_path: Path
) -> None:
    from cellscribe.api.embed import embed_file

    source, out = cells(tmp_path / "in.h5ad"), tmp_path / f"out{suffix}"
    once = [change]

    def progress(done: int, total: int) -> None:
        if done > 50 and once:
            once.pop()(source)

    words: dict[str, Any] = {"model": str(tiny_model), "precision": "float32", "device": "cpu"}
    with pytest.raises(InputChangedError, match=rf"{told}.*; .*--resume: what is done is kept"):
        embed_file(source, out, progress=progress, **words)
    assert not out.exists()
    assert not once
    assert 0 < state_of(out)["done"] < N_CELLS


@pytest.mark.parametrize("suffix", [".npy", ".h5ad", ".parquet"])
def test_a_file_that_is_replaced_while_the_output_is_written(
    suffix: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = cells(tmp_path / "in.h5ad"), tmp_path / f"out{suffix}"
    remove = outputs.remove

    def meanwhile(path: Path) -> None:
        replaced(source)
        remove(path)

    with monkeypatch.context() as patch:
        patch.setattr(outputs, "remove", meanwhile)
        with pytest.raises(InputChangedError, match="was changed"):
            run(out, source=source)
    assert not out.exists()
    # its rows are of the file that is no more
    with pytest.raises(InputError, match="another input; cells 0 to 15 had other counts"):
        run(out, source=source, resume=True)


def test_what_is_watched_of_a_folder(tmp_path: Path) -> None:
    store = cells(tmp_path / "in.zarr")
    watched = InputFiles(store)
    watched.check(now=True)
    (store / "X" / ".nfs0001").touch()  # of a file that is still open somewhere
    watched.check(now=True)
    assert InputFiles(store).digest == watched.digest
    (store / "X" / "c").touch()
    with pytest.raises(InputChangedError, match=r"in\.zarr was changed \(X/c\) while it was read"):
        watched.check(now=True)
    assert InputFiles(store).digest != watched.digest
    folder = tmp_path / "mtx"
    folder.mkdir()
    (folder / "matrix.mtx").touch()
    watched = InputFiles(folder)
    (folder / "notes").touch()  # not the input's
    watched.check(now=True)
    (folder / "matrix.mtx").write_text("x")
    with pytest.raises(InputChangedError, match=r"was changed \(matrix\.mtx\)"):
        watched.check(now=True)
    shutil.rmtree(folder)
    with pytest.raises(InputChangedError, match="was moved or removed"):
        watched.check(now=True)
    InputFiles(tmp_path / "nothing").check(now=True)
    InputFiles(None).check(now=True)


# What was done


@pytest.mark.parametrize("name", ["vectors.npy", "cells.bin", "blocks.bin"])
def test_rows_that_were_changed_are_found(name: str, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out.npy"
    stop(run, out)
    path = folder_of(out) / name
    values = bytearray(path.read_bytes())
    at = len(values) - 3 * WIDTH if name == "vectors.npy" else len(values) // 2
    values[at : at + 8] = bytes(8) if any(values[at : at + 8]) else b"\1" * 8
    path.write_bytes(values)
    told = "not what was written|do not fit together"
    with pytest.raises(InputError, match=rf"({told}); give --overwrite to begin anew"):
        run(out, resume=True)
    assert path.read_bytes() == values
    run(out, overwrite=True)


def test_the_hashes_are_those_of_the_blocks(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out.npy"
    done = stop(run, out)
    kept = np.fromfile(folder_of(out) / "blocks.bin", BLOCK_RECORD)
    assert kept["rows"].tolist() == [BLOCK] * (done // BLOCK)
    x = COUNTS[:BLOCK].astype(np.int32)
    same = sp.csr_matrix((x.data.copy(), x.indices.copy(), x.indptr.copy()), shape=x.shape)
    assert hash_block(x) == hash_block(same)
    for change in ("data", "indices", "indptr"):
        other = same.copy()
        getattr(other, change)[1] += 1
        assert hash_block(other) != hash_block(x)
    assert hash_block(x.astype(np.int64)) != hash_block(x)


OF_NO_KIND = [None, True, -1, 10**30, 1.5, "16", [], {}]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (key, value)
        for key in ("done", "blocks", "files", "identity")
        for value in OF_NO_KIND
        if (key, value) not in (("files", "16"), ("identity", {}))
    ],
)
def test_a_state_of_any_kind_is_refused_in_a_line(
    key: str, value: Any, run: Run, tmp_path: Path
) -> None:
    out = tmp_path / "out.npy"
    folder_of(out).mkdir()
    state = {"done": 16, "blocks": 1, "files": "", "identity": {}} | {key: value}
    (folder_of(out) / "state.json").write_text(json.dumps(state))
    with pytest.raises(InputError, match=r"state\.json is missing or damaged"):
        run(out, resume=True)
    (folder_of(out) / "state.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match=r"state\.json is missing or damaged"):
        run(out, resume=True)


def test_a_folder_that_is_no_run_of_ours_stays(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out.npy"
    folder_of(out).mkdir()
    (folder_of(out) / "thesis.tex").write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "state.json").write_text("mine")
    for options in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(InputError, match=r"or holds something else \(thesis\.tex\)"):
            run(out, **options)
    shutil.rmtree(folder_of(out))
    folder_of(out).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is no unfinished run of cellscribe"):
        run(out, overwrite=True)
    assert (tmp_path / "elsewhere" / "state.json").read_text() == "mine"


def test_a_run_that_ended_before_its_first_block_holds_nobody_up(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out.npy"
    stop(run, out)
    path = folder_of(out) / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"done": 0, "blocks": 0}))
    run(out)
    assert not folder_of(out).exists()


def test_an_error_of_ours_leaves_a_run_that_can_go_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.h5ad"
    with monkeypatch.context() as patch:
        patch.setattr(outputs, "_fill", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(out)
    run(out, resume=True)
    run(tmp_path / "whole.h5ad")
    same_bytes(out, tmp_path / "whole.h5ad")


# Inputs that may only be read


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_a_copy_of_a_read_only_input_can_be_written_to(
    suffix: str, run: Run, tmp_path: Path
) -> None:
    source, out = cells(tmp_path / f"in{suffix}"), tmp_path / f"out{suffix}"
    inside = [source, *source.rglob("*")]
    for path in reversed(inside):
        path.chmod(0o555 if path.is_dir() else 0o444)
    modes = [path.stat().st_mode for path in inside]
    try:
        run(out, source=source)
        assert [path.stat().st_mode for path in inside] == modes
        for path in (out, *out.rglob("*")):
            assert path.stat().st_mode & 0o200
        assert (
            "X_cellscribe" in (ad.read_h5ad(out) if suffix == ".h5ad" else ad.read_zarr(out)).obsm
        )
        run(out, source=source, overwrite=True)
    finally:
        for path in inside:
            path.chmod(0o755)


def test_an_input_that_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputChangedError, match="was moved or removed; put it back"):
        outputs.copy_input(tmp_path / "gone.h5ad", tmp_path / "copy")
