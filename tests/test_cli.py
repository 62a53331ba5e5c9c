"""The command line as a user meets it: words, settings, and what it says when all is well."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from support.command import (
    COUNTS,
    DENSE,
    MOUSE,
    TITLE,
    Cli,
    Ran,
    refused,
    renamed,
    without_notes,
    write,
)
from support.formats import write_genome
from support.tiny import CONTEXT, N_GENES, WIDTH, every_gene, real_genes, save_model

from cellscribe.model.metadata import bundled_models


@pytest.mark.parametrize(
    "verb", ["embed", "tokenize", "info", "corpus", "train", "report", "evaluate"]
)
def test_help_of_every_verb(verb: str, run: Cli) -> None:
    overall, own = run("--help"), run(verb, "--help")
    assert overall.status == own.status == 0
    assert f" {verb} " in overall.out
    assert f"Usage: cellscribe {verb}" in own.out
    assert own.err == ""


def test_every_option_of_embed_is_explained(run: Cli) -> None:
    from dataclasses import fields

    from cellscribe.config import EmbedOptions

    text = run("embed", "--help").out
    for option in (*(f.name for f in fields(EmbedOptions)), "out", "report", "map", "color_by"):
        name = f"--{option.replace('_', '-')} "
        line = next(line for line in text.splitlines() if line.startswith("│") and name in line)
        assert len(line.strip(" │*").split("  ")) > 1, f"--{option} stands there alone"


def test_version(run: Cli) -> None:
    assert run("--version") == Ran(0, f"{metadata.version('cellscribe')}\n", "")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["embd", "x.h5ad"], 'Did you mean "embed"?'),
        (["embed", "x.h5ad", "-o", "y.npy", "--presicion", "bf16"], "Did you mean --precision?"),
        (["embed", "x.h5ad"], "--out"),
        (["embed"], "requires an argument"),
        (["tokenize", "x.h5ad"], "--out"),
        (["embed", "x.h5ad", "-o", "y.npy", "--precision", "fp8"], '"auto", "float32", "bf16"'),
        (["embed", "x.h5ad", "-o", "y.npy", "--dtype", "int8"], '"float32", "float16"'),
        (["embed", "x.h5ad", "-o", "y.npy", "--threads", "many"], "--threads"),
        (["embed", "x.h5ad", "z.h5ad", "-o", "y.npy"], "several sources give a file each"),
        (["info", "nope"], "no model 'nope'"),
        (["info", "--model", "mini"], "--model"),
    ],
)
def test_words_that_are_wrong(words: list[str], told: str, run: Cli) -> None:
    assert told in refused(run(*words))


def test_a_config_lies_under_the_flags(
    run: Cli, cells: Path, tiny_model: Path, tmp_path: Path
) -> None:
    config, out = tmp_path / "run.toml", tmp_path / "out.npy"
    config.write_text(
        f"[embed]\nmodel = '{tiny_model}'\ndtype = 'float16'\ngene-key = 'gene_ids'\n"
        "overwrite = true\n"
    )
    assert run("embed", cells, "-o", out, "--config", config).status == 0
    assert np.load(out).dtype == np.float16
    assert json.loads((tmp_path / "out.npy.json").read_text())["gene_key"] == "gene_ids"
    assert run("--config", config, "embed", cells, "-o", out, "--dtype", "float32").status == 0
    assert np.load(out).dtype == np.float32
    # it holds for that call alone
    assert "no model 'nope'" in refused(
        run("embed", cells, "-o", out, "--model", "nope", "--resume", "--overwrite")
    )
    assert "exists already" in refused(run("embed", cells, "-o", out, "--model", tiny_model))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[embed]\nmodell = 'x'\n", "modell"),
        ("[embbed]\nmodel = 'x'\n", "no verb 'embbed'; tables are"),
        ("model = 'x'\n", "no verb 'model'"),
        ("[embed]\nthreads = 'many'\n", "threads"),
        ("[embed\n", "not valid TOML"),
        ("\x00\xff", "not a text file"),
        (None, "no such file"),
    ],
)
def test_a_config_that_is_wrong(
    text: str | None, told: str, embed: Cli, cells: Path, tmp_path: Path
) -> None:
    config = tmp_path / "run.toml"
    if text is not None:
        config.write_bytes(text.encode("latin-1"))
    assert told in refused(embed(cells, "--config", config))
    assert not (tmp_path / "out.npy").exists()


def test_embed_tells_what_it_did(embed: Cli, cells: Path, tmp_path: Path) -> None:
    ran = embed(cells, "--precision", "float32", "--device", "cpu")
    assert ran.status == 0
    assert ran.out == f"{tmp_path / 'out.npy'}\n"
    assert "200 of 200 genes are known (200 by Ensembl id; read from gene_ids)." in ran.err
    assert f"40 cells x {WIDTH} with tiny on cpu (float32), " in ran.err
    assert "cells have no count on a gene that the model knows; their vectors are zero" in ran.err
    assert np.load(tmp_path / "out.npy").shape == (40, WIDTH)


def test_a_terminal_shows_how_far_it_is(cells: Path, tiny_model: Path, tmp_path: Path) -> None:
    words = ["embed", cells, "-o", tmp_path / "out.npy", "--model", tiny_model]
    ran = subprocess.run(
        [sys.executable, "-m", "cellscribe", *map(str, words)],
        env={**os.environ, "TTY_COMPATIBLE": "1", "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=True,
    )
    for part in ("Embedding", "/40", "cells/s", "left"):
        assert part in ran.stderr
    assert "\x1b" not in ran.stdout


def test_page_and_map_are_named_beside_the_output(embed: Cli, cells: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra cellscribe[report]")
    pytest.importorskip("umap", reason="needs the extra cellscribe[report]")
    page, picture = tmp_path / "page.html", tmp_path / "map.png"
    ran = embed(cells, "--report", page, "--map", picture, "--color-by", "batch")
    assert ran.status == 0, ran
    assert ran.out.split() == [str(tmp_path / "out.npy"), str(page), str(picture)]
    assert "cells.h5ad" in page.read_text()
    assert picture.read_bytes().startswith(b"\x89PNG")


def as_bytes(path: Path) -> Path:
    write(path, COUNTS)
    with h5py.File(path, "r+") as file:
        del file["var"]["gene_ids"]
        file["var"].attrs["column-order"] = np.array([], dtype="S1")
        del file["var/_index"]
        file["var/_index"] = np.array(real_genes(N_GENES)[1], dtype="S")
    return path


def as_categories(path: Path) -> Path:
    write(path, COUNTS)
    with h5py.File(path, "r+") as file:
        del file["var/_index"]
        ad.io.write_elem(file["var"], "_index", pd.Categorical(real_genes(N_GENES)[1]))
    return path


def prefixed(prefix: str) -> Callable[[Path], Path]:
    return lambda path: renamed(path, [f"{prefix}{name}" for name in real_genes(N_GENES)[1]])


ODD: dict[str, Callable[[Path], Path]] = {
    "float64": lambda path: write(path, COUNTS.astype(np.float64)),
    "uint8": lambda path: write(path, COUNTS.astype(np.uint8)),
    "bytes": as_bytes,
    "categories": as_categories,
    "hg19_": prefixed("hg19_"),
    "GRCh38_": prefixed("GRCh38_"),
    "versions": lambda path: renamed(path, [f"{i}.7" for i in real_genes(N_GENES)[0]]),
    "symbols": lambda path: renamed(path, real_genes(N_GENES)[1]),
}


@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
def test_odd_files_are_read_as_they_are_meant(
    make: Callable[[Path], Path], embed: Cli, cells: Path, tmp_path: Path
) -> None:
    assert embed(cells, out=tmp_path / "plain.npy").status == 0
    ran = embed(make(tmp_path / "odd.h5ad"))
    assert ran.status == 0, ran
    plain = np.load(tmp_path / "plain.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), plain)


def test_of_two_species_the_human_genes_are_taken(embed: Cli, cells: Path, tmp_path: Path) -> None:
    def of(prefix: str) -> Callable[[int], tuple[list[str], list[str]]]:
        def genes(n_genes: int) -> tuple[list[str], list[str]]:
            if prefix == "mm10":
                return MOUSE[:n_genes], [f"mm10_{name}" for name in TITLE[:n_genes]]
            ids, names = real_genes(n_genes)
            return [f"{prefix}_{i}" for i in ids], [f"{prefix}_{name}" for name in names]

        return genes

    path, barcodes = tmp_path / "two.h5", [f"cell{i}" for i in range(40)]
    with h5py.File(path, "w") as file:
        write_genome(file.create_group("hg19"), DENSE, barcodes, genes=of("hg19"))
        write_genome(file.create_group("mm10"), DENSE[::-1], barcodes, genes=of("mm10"))
    assert embed(cells, out=tmp_path / "plain.npy").status == 0
    ran = embed(path)
    assert ran.status == 0, ran
    assert "belong to another species and are left out: 200" in ran.err
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), np.load(tmp_path / "plain.npy"))
    about = json.loads((tmp_path / "out.npy.json").read_text())
    assert (about["n_genes"], about["n_genes_known"]) == (2 * N_GENES, N_GENES)


def test_a_real_file_of_two_species(embed: Cli, shared_data: Path, tmp_path: Path) -> None:
    model = save_model(tmp_path / "all", all_genes=True)
    path = shared_data / "hgmm_200cells_filtered_feature_bc_matrix.h5"
    ran = embed(path, "--model", model)
    assert ran.status == 0, ran
    assert "belong to another species and are left out" in ran.err
    about = json.loads((tmp_path / "out.npy.json").read_text())
    assert about["n_cells"] == len(np.load(tmp_path / "out.npy"))
    # nearly every human gene of the file that codes for a protein, and no gene of the mouse
    assert 0.9 * len(every_gene()[0]) < about["n_genes_known"] <= len(every_gene()[0])
    assert about["n_genes"] > 50_000
    assert about["umis_known"] < 0.9 * about["umis"]


def test_tokenize(run: Cli, cells: Path, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "tokens.parquet"
    ran = run("tokenize", cells, "-o", out, "--model", tiny_model)
    assert (ran.status, ran.out) == (0, f"{out}\n")
    kept = np.minimum((DENSE > 0).sum(1), CONTEXT)
    assert f"40 cells, {kept.sum():,} genes" in ran.err
    assert "Warning" in ran.err
    table = pq.read_table(out)
    np.testing.assert_array_equal(table["length"], kept + 1)
    assert table["cell_id"].to_pylist() == [f"cell{i}" for i in range(40)]
    assert [len(row) for row in table["input_ids"].to_pylist()] == list(kept + 1)
    assert "exists already" in refused(run("tokenize", cells, "-o", out, "--model", tiny_model))
    wrong = run("tokenize", cells, "-o", tmp_path / "x.npy", "--model", tiny_model)
    assert "name it x.parquet" in refused(wrong)


def facts(ran: Ran) -> dict[str, str]:
    assert (ran.status, ran.err) == (0, "")
    return dict(line.split("  ", 1) for line in ran.out.splitlines())


def test_info_on_a_checkpoint(run: Cli, tiny_model: Path) -> None:
    from cellscribe.model.checkpoint import load_checkpoint

    told = {key.strip(): value.strip() for key, value in facts(run("info", tiny_model)).items()}
    checkpoint = load_checkpoint(tiny_model)
    n = sum(parameter.numel() for parameter in checkpoint.model.parameters())
    assert told["name"] == "tiny"
    assert told["parameters"] == f"{n:,}"
    megabytes = (tiny_model / "model.safetensors").stat().st_size / 1e6
    assert told["weights"] == f"{megabytes:.1f} MB on disk, hash {checkpoint.hash}"
    assert told["vocabulary"] == f"{N_GENES + 5} tokens"
    assert told["context"] == f"{CONTEXT} genes"
    assert told["trained on"] == "nothing"


@pytest.mark.parametrize(
    ("preset", "millions"), [("geneformer-10m", 10.3), ("geneformer-106m", 106.0)]
)
def test_info_on_a_preset(preset: str, millions: float, run: Cli) -> None:
    told = {key.strip(): value.strip() for key, value in facts(run("info", preset)).items()}
    assert int(told["parameters"].replace(",", "")) == pytest.approx(millions * 1e6, rel=0.01)
    assert told["weights"].startswith("none")


@pytest.mark.skipif(not bundled_models(), reason="this checkout has no bundled model")
def test_the_bundled_model_is_the_default(run: Cli, tmp_path: Path) -> None:
    from cellscribe import sample

    sample()[:50].copy().write_h5ad(tmp_path / "cells.h5ad")
    told = {key.strip(): value.strip() for key, value in facts(run("info")).items()}
    assert told["name"] == "mini"
    ran = run("embed", tmp_path / "cells.h5ad", "-o", tmp_path / "out.npy")
    assert ran.status == 0
    vectors = np.load(tmp_path / "out.npy")
    assert f"{vectors.shape[1]} values" in told["vector"]
    assert np.isfinite(vectors).all()
    assert vectors.any(axis=1).all()


# As a process


def shell(*words: Any, **more: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "cellscribe", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **more)


def test_the_process_leaves_with_the_status(cells: Path, tiny_model: Path, tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("cellscribe")
    if not script.exists():
        pytest.skip("the package's script is not installed beside this Python")
    version = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert version.stdout == f"{metadata.version('cellscribe')}\n"
    bad = shell("embed", tmp_path / "none.h5ad", "-o", tmp_path / "out.npy")
    assert "no such file" in refused(Ran(bad.returncode, bad.stdout, bad.stderr))
    good = shell("embed", cells, "-o", tmp_path / "out.npy", "--model", tiny_model)
    assert good.returncode == 0, good.stderr
    assert good.stdout == f"{tmp_path / 'out.npy'}\n"
    # three lines of facts and nothing else: no half-drawn bar, no stray warning
    assert [line.split()[0] for line in without_notes(good.stderr).splitlines()] == [
        "200",
        "40",
        "Warning:",
        "Warning:",
    ]


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m cellscribe info geneformer-10m | true; echo ${{PIPESTATUS[0]}}"
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("141\n", "")
