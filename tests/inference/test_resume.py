"""Runs stopped in every way there is: nothing false is left, and they go on to the same bytes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from support.formats import annotated
from support.runs import BLOCK, N_CELLS, Run, folder_of, same_bytes, state_of
from support.tiny import WIDTH, real_genes, save_model, some_counts

from cellscribe.cells import pipeline
from cellscribe.errors import InputError
from cellscribe.inference import outputs
from cellscribe.inference.embed import Interrupted
from cellscribe.inference.resume import CELL

FORMS = (".npy", ".h5ad")
pytestmark = pytest.mark.usefixtures("small_blocks")


@pytest.fixture
def stopped(run: Run, tmp_path: Path) -> Path:
    """Output of a run that was stopped in its middle."""
    out = tmp_path / "out.npy"
    with pytest.raises(Interrupted):
        run(out, stop_after=50)
    return out


@pytest.mark.parametrize("suffix", [".npy", ".h5ad", ".zarr", ".parquet"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    suffix: str, dtype: str, run: Run, tmp_path: Path
) -> None:
    whole, out = tmp_path / f"whole{suffix}", tmp_path / f"out{suffix}"
    run(whole, dtype=dtype)
    for n_stops, after in enumerate((20, 50, 70)):
        with pytest.raises(Interrupted, match=r"of 100 cells done; .*--resume goes on") as caught:
            run(out, stop_after=after, dtype=dtype, resume=n_stops > 0)
        done = state_of(out)["done"]
        assert done % BLOCK == 0
        assert 0 < done <= after + BLOCK
        assert f"{done} of 100" in str(caught.value)
        assert not out.exists()
    result = run(out, dtype=dtype, resume=True)
    assert not folder_of(out).exists()
    assert result.n_cells == N_CELLS
    same_bytes(out, whole)


def test_going_on_does_only_what_is_left(stopped: Path, run: Run, monkeypatch: Any) -> None:
    done = state_of(stopped)["done"]
    starts = []
    blocks = pipeline.Counts.blocks

    def spy(self: Any, rows: int = 4096, start: int = 0) -> Any:
        starts.append(start)
        return blocks(self, rows, start)

    monkeypatch.setattr(pipeline.Counts, "blocks", spy)
    run(stopped, resume=True)
    assert starts == [done]


def test_stopped_before_anything_is_done_leaves_nothing(run: Run, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        run(tmp_path / "out.npy", stop_after=0)
    assert not isinstance(caught.value, Interrupted)
    assert list(tmp_path.iterdir()) == []


def test_stopped_while_the_output_is_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.h5ad"

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(outputs, "_settle", stop)
        with pytest.raises(Interrupted, match="100 of 100 cells done"):
            run(out)
    assert not out.exists()
    run(tmp_path / "whole.h5ad")
    run(out, resume=True)
    same_bytes(out, tmp_path / "whole.h5ad")


def test_resuming_where_nothing_is_left_begins_at_the_start(run: Run, tmp_path: Path) -> None:
    run(tmp_path / "whole.npy")
    run(tmp_path / "out.npy", resume=True)
    same_bytes(tmp_path / "out.npy", tmp_path / "whole.npy")
    # nor is it a way to replace a result unasked
    with pytest.raises(InputError, match="exists already; give --overwrite"):
        run(tmp_path / "out.npy", resume=True)


def test_another_run_is_not_gone_on_with(
    stopped: Path, run: Run, hundred_cells: Path, tmp_path: Path
) -> None:
    other = some_counts(N_CELLS, seed=9)
    changed = tmp_path / "other.h5ad"
    annotated(sp.csr_matrix(other), real_genes).write_h5ad(changed)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"model": str(save_model(tmp_path / "m", seed=5))}, "model"),
        ({"model": str(save_model(tmp_path / "g", changed_medians=True))}, "gene table"),
        ({"precision": "bf16"}, "precision"),
        ({"dtype": "float16"}, "dtype"),
        ({"gene_key": "var_names"}, "gene key"),
        ({"source": changed}, "input"),
    ]
    before = {p.name: p.read_bytes() for p in folder_of(stopped).iterdir()}
    for options, what in cases:
        with pytest.raises(InputError, match=f"was begun with another {what}; .*--overwrite"):
            run(stopped, resume=True, **options)
        assert {p.name: p.read_bytes() for p in folder_of(stopped).iterdir()} == before
    run(stopped, resume=True)


def test_another_layer_is_not_gone_on_with(run: Run, tmp_path: Path) -> None:
    dense = sp.csr_matrix(some_counts(N_CELLS))
    path, out = tmp_path / "layers.h5ad", tmp_path / "out.npy"
    annotated(dense, real_genes, layers={"counts": dense}).write_h5ad(path)
    with pytest.raises(Interrupted):
        run(out, stop_after=50, source=path)
    with pytest.raises(InputError, match="was begun with another layer;"):
        run(out, source=path, layer="counts", resume=True)


def test_what_is_left_is_not_run_over_unasked(stopped: Path, run: Run) -> None:
    before = state_of(stopped)
    with pytest.raises(InputError, match="--resume to go on with it or --overwrite to begin anew"):
        run(stopped)
    assert state_of(stopped) == before


def test_overwrite_begins_anew(stopped: Path, run: Run, tmp_path: Path) -> None:
    (folder_of(stopped) / "vectors.npy").write_bytes(b"of another time")
    run(stopped, overwrite=True, dtype="float16")
    run(tmp_path / "whole.npy", dtype="float16")
    same_bytes(stopped, tmp_path / "whole.npy")
    assert not folder_of(stopped).exists()


def test_rows_behind_the_last_safe_one_are_dropped(stopped: Path, run: Run, tmp_path: Path) -> None:
    # killed after rows were written and before they were counted
    for name, torn in (("vectors.npy", b"\x7f" * 77), ("cells.bin", b"\x7f" * 5)):
        with (folder_of(stopped) / name).open("ab") as file:
            file.write(torn)
    (folder_of(stopped) / "state.json.new").write_text('{"done": 9')
    run(stopped, resume=True)
    run(tmp_path / "whole.npy")
    same_bytes(stopped, tmp_path / "whole.npy")


@pytest.mark.parametrize("name", ["vectors.npy", "cells.bin"])
@pytest.mark.parametrize("how", ["short", "gone"])
def test_rows_that_are_missing_are_not_made_up(
    name: str, how: str, stopped: Path, run: Run
) -> None:
    path = folder_of(stopped) / name
    if how == "gone":
        path.unlink()
    else:
        row = WIDTH * 4 if name == "vectors.npy" else CELL.itemsize
        os.truncate(path, path.stat().st_size - row)
    with pytest.raises(InputError, match=f"{name} is cut short; give --overwrite"):
        run(stopped, resume=True)
    assert (folder_of(stopped) / "state.json").exists()
    run(stopped, overwrite=True)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"done": 16}', '{"done": "x", "identity": {}}'])
def test_a_damaged_state_is_refused(text: str, stopped: Path, run: Run) -> None:
    (folder_of(stopped) / "state.json").write_text(text)
    with pytest.raises(InputError, match=r"state.json is missing or damaged; give --overwrite"):
        run(stopped, resume=True)


@pytest.mark.parametrize("names", [(), ("vectors.npy",), ("vectors.npy", "cells.bin")])
@pytest.mark.parametrize("resume", [True, False])
def test_a_run_killed_before_its_first_state_begins_anew(
    names: tuple[str, ...], resume: bool, run: Run, tmp_path: Path
) -> None:
    out, whole = tmp_path / "out.npy", tmp_path / "whole.npy"
    run(whole)
    folder_of(out).mkdir()
    for name in names:
        (folder_of(out) / name).write_bytes(b"\x93NUMPY")
    run(out, resume=resume)
    same_bytes(out, whole)
    assert not folder_of(out).exists()


@pytest.mark.parametrize("suffix", FORMS)
def test_an_old_output_stays_until_the_new_one_is_whole(
    suffix: str, run: Run, tmp_path: Path
) -> None:
    out = tmp_path / f"out{suffix}"
    out.write_text("old")
    out.with_name(f"{out.name}.json").write_text("{}")
    with pytest.raises(InputError, match="exists already; give --overwrite"):
        run(out)
    with pytest.raises(Interrupted):
        run(out, stop_after=50, overwrite=True)
    assert out.read_text() == "old"
    assert out.with_name(f"{out.name}.json").read_text() == "{}"
    run(out, resume=True)
    out.with_name(f"{out.name}.json").unlink(missing_ok=suffix == ".npy")
    run(tmp_path / f"whole{suffix}")
    assert out.read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()


def test_bad_counts_far_down_leave_nothing(run: Run, tmp_path: Path) -> None:
    dense = some_counts(N_CELLS).astype(np.float32)
    dense[90, 5] = np.nan
    path, out = tmp_path / "bad.h5ad", tmp_path / "out.npy"
    annotated(sp.csr_matrix(dense), real_genes).write_h5ad(path)
    with pytest.raises(InputError, match="nan in cell 90"):
        run(out, source=path)
    assert [p.name for p in tmp_path.iterdir()] == ["bad.h5ad"]
