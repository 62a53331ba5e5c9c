"""What is wrong is told in one line with status 2, and nothing is left behind."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from safetensors.numpy import load_file, save_file
from support.command import (
    COUNTS,
    MOUSE,
    TITLE,
    Cli,
    nothing_new,
    refused,
    renamed,
    write,
)
from support.formats import annotated, write_zarr
from support.tiny import N_GENES, WIDTH, real_genes

# What is given


def spoiled(value: float, dtype: type = np.float32) -> sp.csr_matrix:
    x = COUNTS.astype(dtype)
    x.data[x.indptr[20]] = value
    return x


def truncated(path: Path) -> Path:
    write(path, COUNTS)
    os.truncate(path, path.stat().st_size // 2)
    return path


def without_x(path: Path) -> Path:
    adata = annotated(COUNTS, real_genes, layers={"counts": COUNTS})
    adata.X = None
    adata.write_h5ad(path)
    return path


def text(path: Path) -> Path:
    path.write_text("cell,gene,count\n")
    return path


FEW = [*real_genes(4)[0], *(f"locus{i}" for i in range(N_GENES - 4))]

BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda path: path, "no such file; check the path"),
    "text": (text, "not an HDF5 file, though named .h5ad"),
    "empty file": (lambda path: (path.touch(), path)[1], "the file is empty"),
    "truncated": (truncated, "damaged or was cut short"),
    "no X": (without_x, "has no matrix X; name one with --layer: counts"),
    "no cells": (lambda path: write(path, COUNTS[:0]), "X has no cells"),
    "no genes": (lambda path: write(path, COUNTS[:, :0]), "X has no genes"),
    "NaN": (lambda path: write(path, spoiled(np.nan)), "nan in cell 20"),
    "infinite": (lambda path: write(path, spoiled(np.inf)), "inf in cell 20"),
    "negative": (lambda path: write(path, spoiled(-1)), "below zero, as after scaling"),
    "fraction": (lambda path: write(path, spoiled(0.5)), "0.5 in cell 20"),
    "normalised": (lambda path: write(path, COUNTS * 31.7), "normalised values"),
    "overflow": (lambda path: write(path, spoiled(2**40, np.int64)), "as after an overflow"),
    "mouse ids": (lambda path: renamed(path, MOUSE), "the genes look like mouse"),
    "mouse symbols": (lambda path: renamed(path, TITLE), "the genes look like mouse"),
    "few known": (lambda path: renamed(path, FEW), "4 of 200 genes are known to the model"),
}


@pytest.mark.parametrize("verb", ["embed", "tokenize"])
@pytest.mark.parametrize(("make", "told"), BAD.values(), ids=BAD)
def test_cells_that_are_wrong(
    make: Callable[[Path], Path],
    told: str,
    verb: str,
    run: Cli,
    tiny_model: Path,
    tmp_path: Path,
) -> None:
    source = make(tmp_path / "in.h5ad")
    ran = run(verb, source, "-o", tmp_path / "out.parquet", "--model", tiny_model)
    assert told in refused(ran)
    nothing_new(tmp_path, *(["in.h5ad"] if source.exists() else []))


def test_cells_that_are_all_empty(embed: Cli, tmp_path: Path) -> None:
    assert "no cell has a count on a gene" in refused(
        embed(write(tmp_path / "in.h5ad", COUNTS * 0))
    )
    nothing_new(tmp_path, "in.h5ad")


def test_log_normalised_cells_are_sent_to_their_counts(embed: Cli, tmp_path: Path) -> None:
    source, plain = tmp_path / "log.h5ad", tmp_path / "plain.npy"
    write(source, COUNTS.log1p(), layers={"counts": COUNTS})
    assert "use --layer counts" in refused(embed(source))
    nothing_new(tmp_path, "log.h5ad")
    assert embed(source, "--layer", "counts").status == 0
    assert embed(write(tmp_path / "plain.h5ad", COUNTS), out=plain).status == 0
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), np.load(plain))
    told = refused(embed(source, "--layer", "spliced", "--overwrite"))
    assert "no layer 'spliced'; there are X, counts" in told
    assert np.load(plain).shape == (40, WIDTH)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model", "nope"], "no model 'nope'"),
        (["--device", "tpu"], "no device 'tpu'; choose auto, cpu or cuda"),
        (["--device", "meta"], "'meta' is not supported"),
        (["--precision", "fp16", "--device", "cpu"], "choose bf16 or float32"),
        (["--threads", "0"], "threads must be 1 or more, not 0"),
        (
            ["--gene-key", "nope"],
            "no var column 'nope' (--gene-key); there are var_names, gene_ids",
        ),
        (["--key-added", "a/b"], "cannot name vectors (--key-added)"),
    ],
)
def test_options_that_are_wrong(
    words: list[str], told: str, embed: Cli, cells: Path, tmp_path: Path
) -> None:
    assert told in refused(embed(cells, *words))
    nothing_new(tmp_path, "cells.h5ad")


def test_no_cuda_device(embed: Cli, cells: Path, tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        assert "there are" in refused(embed(cells, "--device", "cuda:99"))
    else:
        assert "use --device cpu" in refused(embed(cells, "--device", "cuda"))
    nothing_new(tmp_path, "cells.h5ad")


# Where it goes


def contents(path: Path) -> dict[str, bytes]:
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    return {str(p): p.read_bytes() for p in files}


@pytest.mark.parametrize(
    ("verb", "flag"),
    [
        ("embed", []),
        ("embed", ["--overwrite"]),
        ("embed", ["--resume"]),
        ("tokenize", []),
        ("tokenize", ["--overwrite"]),
    ],
)
def test_the_input_is_never_written_to(
    flag: list[str], verb: str, run: Cli, tiny_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "outer.zarr"
    folder.mkdir()
    source = folder / "in.zarr"
    write_zarr(annotated(COUNTS, real_genes), source)
    suffix = ".zarr" if verb == "embed" else ".parquet"
    (tmp_path / f"same{suffix}").symlink_to(source)
    before = contents(folder)
    for out, told in (
        (source, "is the input itself"),
        (tmp_path / f"same{suffix}", "is the input itself"),
        (source / f"out{suffix}", "lies inside the input"),
        (folder, "contains the input"),
    ):
        if verb == "tokenize" and out.suffix != ".parquet":
            continue
        ran = run(verb, source, "-o", out, "--model", tiny_model, *flag)
        assert told in refused(ran)
        assert contents(folder) == before


@pytest.mark.parametrize("option", ["--report", "--map"])
def test_report_and_map_spare_input_and_output(
    option: str, embed: Cli, cells: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra cellscribe[report]")
    pytest.importorskip("umap", reason="needs the extra cellscribe[report]")
    before = cells.read_bytes()
    assert "is the input itself" in refused(embed(cells, option, cells))
    assert "for two outputs" in refused(embed(cells, option, tmp_path / "out.npy"))
    assert "is a folder" in refused(embed(cells, option, tmp_path))
    (tmp_path / "mine.txt").write_text("mine")
    assert "no page or picture" in refused(embed(cells, option, tmp_path / "mine.txt"))
    (tmp_path / "mine.txt").unlink()
    missing = tmp_path / "none/page.html"
    assert "no such folder" in refused(embed(cells, option, missing))
    told = refused(embed(cells, option, tmp_path / "page", "--color-by", "nope"))
    assert "no obs column 'nope' (--color-by); there are batch" in told
    assert cells.read_bytes() == before
    nothing_new(tmp_path, "cells.h5ad")


@pytest.mark.parametrize(
    ("out", "told"),
    [
        ("out.csv", "end the output's name in one of .npy, .h5ad, .zarr, .parquet"),
        ("none/out.npy", "no such folder; make it first"),
        ("cells.h5ad/out.npy", "lies inside the input"),
        ("there.npy", "exists already; give --overwrite"),
    ],
)
def test_outputs_that_are_wrong(
    out: str, told: str, embed: Cli, cells: Path, tmp_path: Path
) -> None:
    (tmp_path / "there.npy").write_text("old")
    assert told in refused(embed(cells, out=tmp_path / out))
    nothing_new(tmp_path, "cells.h5ad", "there.npy")
    assert (tmp_path / "there.npy").read_text() == "old"


@pytest.fixture
def closed_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that may not be written to, by root neither."""
    folder = tmp_path / "closed"
    folder.mkdir()
    if os.geteuid():
        folder.chmod(0o500)
        yield folder
        folder.chmod(0o700)
        return
    command = ["mount", "-t", "tmpfs", "-o", "size=100k,ro", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"root needs leave to mount a closed folder: {error}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_folder_that_is_closed(closed_folder: Path, embed: Cli, cells: Path) -> None:
    told = refused(embed(cells, out=closed_folder / "out.npy"))
    assert f"{closed_folder} is not writable; write somewhere else" in told
    nothing_new(closed_folder)


# The model


def rewritten(folder: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def shorter_genes(folder: Path) -> None:
    lines = (folder / "genes.tsv").read_text().splitlines()
    (folder / "genes.tsv").write_text("\n".join(lines[:-1]) + "\n")


def wrong_shape(weights: dict[str, np.ndarray]) -> None:
    weights["bert.encoder.layer.1.output.dense.weight"] = np.zeros((3, 3), np.float32)


def one_missing(weights: dict[str, np.ndarray]) -> None:
    del weights["bert.embeddings.LayerNorm.weight"]


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (
        lambda folder: os.truncate(folder / "model.safetensors", 10_000),
        "model.safetensors: damaged",
    ),
    "not weights": (
        lambda folder: (folder / "model.safetensors").write_text("x" * 100),
        "model.safetensors: damaged",
    ),
    "no weights": (
        lambda folder: (folder / "model.safetensors").unlink(),
        "model.safetensors: no such file",
    ),
    "shapes": (lambda folder: rewritten(folder, wrong_shape), "has shape [3, 3] where config.json"),
    "tensor": (lambda folder: rewritten(folder, one_missing), "LayerNorm.weight is missing"),
    "no genes": (lambda folder: (folder / "genes.tsv").unlink(), "the gene table is missing"),
    "short genes": (shorter_genes, "belong to different models"),
    "genes": (lambda folder: (folder / "genes.tsv").write_text("a\tb\n"), "the first line must be"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "config.json: no such file"),
    "config": (lambda folder: (folder / "config.json").write_text("{"), "damaged JSON"),
}


@pytest.mark.parametrize(("damage", "told"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_model(
    damage: Callable[[Path], Any],
    told: str,
    embed: Cli,
    run: Cli,
    cells: Path,
    tiny_model: Path,
    tmp_path: Path,
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    damage(model)
    assert told in refused(embed(cells, "--model", model))
    assert told in refused(run("info", model))
    nothing_new(tmp_path, "cells.h5ad", "model")
