"""What is done with a damaged input: one function for each way in which cellscribe reads it.

A target gets the case's folder, with the damaged input in it and ``out`` to write into, and returns
named arrays; those of the clean input are what they are compared with.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hostile import farm

from cellscribe.callbacks import log_stderr

Found = dict[str, np.ndarray]
FLAT: dict[str, Any] = {"device": "cpu", "precision": "float32", "threads": 1}


@dataclass
class Place:
    """Where a case is worked on."""

    source: Path
    """The damaged input."""
    out: Path
    """An empty folder for results."""
    farm: Path
    kind: str

    def log(self, line: str) -> None:
        """Say a line as the command line does."""
        log_stderr(line)

    @property
    def model(self) -> Path:
        """The clean model."""
        return farm.tiny(self.farm)


def counts(at: Place) -> Found:
    """Every block, and the names of cells and genes."""
    from cellscribe.cells.counts import open_counts

    with open_counts(at.source, log=at.log) as opened:
        blocks = [block.toarray() for block in opened.blocks(rows=farm.BLOCK)]
        return {
            "X": np.concatenate(blocks).astype(np.float64),
            "genes": np.array([str(name) for name in opened.var.index]),
            "cells": np.array([str(name) for name in opened.obs.index]),
        }


def _embed(at: Place, source: Any, name: str, model: Path, **more: Any) -> None:
    import cellscribe

    cellscribe.embed_file(source, at.out / name, model=model, log=at.log, **FLAT, **more)


def embed(at: Place) -> Found:
    """Vectors in a .npy."""
    _embed(at, at.source, "out.npy", at.model)
    return {"vectors": np.load(at.out / "out.npy")}


def embed_h5ad(at: Place) -> Found:
    """Vectors in a copy of the input as .h5ad."""
    import h5py

    _embed(at, at.source, "out.h5ad", at.model)
    # nothing but the vectors: what is damaged elsewhere in the input is damaged in its copy
    with h5py.File(at.out / "out.h5ad", "r") as made:
        return {"vectors": made["obsm/X_cellscribe"][()]}


def embed_zarr(at: Place) -> Found:
    """Vectors in a copy of the input as .zarr."""
    import zarr

    _embed(at, at.source, "out.zarr", at.model)
    return {"vectors": np.asarray(zarr.open_group(str(at.out / "out.zarr"))["obsm/X_cellscribe"])}


def tokenize(at: Place, model: Path | None = None, source: Path | None = None) -> Found:
    """Tokens of every cell."""
    import pyarrow.parquet as pq

    import cellscribe

    path = at.out / "out.parquet"
    cellscribe.tokenize(source or at.source, path, model=model or at.model, log=at.log)
    table = pq.read_table(path)
    cells = table["input_ids"].to_pylist()
    return {
        "lengths": np.array([len(cell) for cell in cells]),
        "tokens": np.array([token for cell in cells for token in cell]),
    }


def build(at: Place) -> Found:
    """A corpus of the one file."""
    import cellscribe

    options = cellscribe.BuildOptions(min_genes=2, genes=150)
    split = cellscribe.SplitOptions(holdout=0)
    made = cellscribe.build_corpus(at.source, at.out / "corpus", options, split, log=at.log)
    cells = [n for t in made.cells("train", ["length"]) for n in t["length"].to_pylist()]
    return {"lengths": np.sort(np.array(cells))}


def annotate(at: Place) -> Found:
    """Labels from a clean reference."""
    return _annotated(at, at.source, farm.source_of(at.farm, "reference"))


def annotate_by(at: Place) -> Found:
    """Labels from a damaged reference."""
    return _annotated(at, farm.source_of(at.farm, "h5ad"), at.source)


def _annotated(at: Place, source: Path, reference: Path) -> Found:
    import cellscribe

    options = cellscribe.AnnotateOptions(
        reference=str(reference), label="cell_type", accuracy=0.5, **FLAT
    )
    cellscribe.annotate_file(source, at.out / "out.csv", options, model=at.model, log=at.log)
    return {"csv": np.array((at.out / "out.csv").read_bytes())}


def annotate_with(at: Place) -> Found:
    """Labels of a damaged fine-tuned model."""
    import cellscribe

    options = cellscribe.AnnotateOptions(**FLAT)
    cells = farm.source_of(at.farm, "reference")
    cellscribe.annotate_file(cells, at.out / "out.csv", options, model=at.source, log=at.log)
    return {"csv": np.array((at.out / "out.csv").read_bytes())}


def embed_model(at: Place) -> Found:
    """Vectors of clean cells by a damaged model."""
    _embed(at, farm.source_of(at.farm, "h5ad"), "out.npy", at.source)
    return {"vectors": np.load(at.out / "out.npy")}


def tokenize_model(at: Place) -> Found:
    """Tokens of clean cells by a damaged model's gene table."""
    return tokenize(at, at.source, farm.source_of(at.farm, "h5ad"))


def info(at: Place) -> Found:
    """What a model says of itself."""
    import cellscribe

    return {"info": np.array(json.dumps(cellscribe.info(at.source), default=str, sort_keys=True))}


def export(at: Place) -> Found:
    """A model as other tools read it."""
    import cellscribe

    cellscribe.export_model(at.source, at.out / "hf")
    return {"weights": np.array((at.out / "hf" / "model.safetensors").read_bytes())}


def embed_imported(at: Place) -> Found:
    """Vectors of a damaged imported model."""
    cells = at.farm / at.kind / "cells.h5ad"
    _embed(at, cells, "out.npy", at.source)
    return {"vectors": np.load(at.out / "out.npy")}


def import_(at: Place) -> Found:
    """A damaged published model brought in, and the vectors it makes."""
    from families import every

    import cellscribe

    what = json.loads((at.farm / at.kind / "what.json").read_text())
    genes = None if what["genes"] is None else at.source / what["genes"]
    made = at.out / "model"
    cellscribe.import_model(at.source / what["source"], made, genes=genes, log=at.log)
    vectors = cellscribe.load(made, **FLAT).embed(every.cells_of(made, 3))
    return {"vectors": vectors}


def read_corpus(at: Place) -> Found:
    """Every batch of an epoch, and the summary."""
    from cellscribe.config import ReaderOptions
    from cellscribe.corpus.reader import Reader

    reader = Reader(at.source, ReaderOptions(batch_cells=16, lanes=2))
    reader.corpus.summary()
    batches = list(reader)
    return {
        "tokens": np.concatenate([batch.tokens.reshape(-1) for batch in batches]),
        "cells": np.concatenate([batch.cells for batch in batches]),
    }


def card(at: Place) -> Found:
    """The data card."""
    import cellscribe

    cellscribe.corpus_card(at.source, html=at.out / "card.html", md=at.out / "card.md")
    return {"card": np.array((at.out / "card.md").read_bytes())}


def train(at: Place) -> Found:
    """Three steps on a damaged corpus."""
    from support.training import run_training

    run_training(at.source, at.out / "run", log=at.log, steps=3, genes_per_cell=None)
    return {"weights": np.array((at.out / "run" / "model" / "model.safetensors").read_bytes())}


def resume(at: Place) -> Found:
    """A damaged run gone on with."""
    from support.training import run_training

    corpus = farm.source_of(at.farm, "corpus")
    run_training(corpus, at.source, log=at.log, resume=True, validate_every=6, checkpoint_every=3)
    return {"weights": np.array((at.source / "model" / "model.safetensors").read_bytes())}


def report_run(at: Place) -> Found:
    """The page of a damaged run."""
    import cellscribe

    cellscribe.report_runs(at.source, at.out)
    return {"page": np.array((at.out / "report.html").read_bytes())}


def report_evaluation(at: Place) -> Found:
    """The page of damaged results."""
    from cellscribe.report.evaluation_page import write_report

    write_report(at.source)
    return {"page": np.array((at.source / "report.md").read_bytes())}


def embed_resume(at: Place) -> Found:
    """A damaged unfinished run gone on with."""
    import cellscribe

    cellscribe.embed_file(
        at.source / "plain.h5ad",
        at.source / "out.npy",
        model=at.model,
        resume=True,
        log=at.log,
        **FLAT,
    )
    return {"vectors": np.load(at.source / "out.npy")}


@dataclass(frozen=True)
class Target:
    """One way to read an input."""

    call: Callable[[Place], Found]
    differs: str
    """What another result than the clean one's means: "fault", "oracle" (an independent reader
    decides) or "free" (the data themselves were changed, and there is no second reader)."""
    changes: tuple[str, ...] = ()
    """Names at the top of the input that the target may make or change."""


TARGETS: dict[str, Target] = {
    "counts": Target(counts, "oracle"),
    "embed": Target(embed, "oracle"),
    "embed_h5ad": Target(embed_h5ad, "oracle"),
    "embed_zarr": Target(embed_zarr, "oracle"),
    "tokenize": Target(tokenize, "oracle"),
    "build": Target(build, "free"),
    "annotate": Target(annotate, "free"),
    "annotate_by": Target(annotate_by, "free"),
    "annotate_with": Target(annotate_with, "free"),
    "embed_model": Target(embed_model, "config"),
    "tokenize_model": Target(tokenize_model, "config"),
    "info": Target(info, "free"),
    "export": Target(export, "config"),
    "embed_imported": Target(embed_imported, "config"),
    "import": Target(import_, "free"),
    "read_corpus": Target(read_corpus, "free"),
    "card": Target(card, "free"),
    "train": Target(train, "free"),
    "resume": Target(resume, "free", ("checkpoints", "metrics.jsonl", "model", "run.json")),
    "report_run": Target(report_run, "free"),
    "report_evaluation": Target(report_evaluation, "free", ("report.md", "report.html")),
    "embed_resume": Target(embed_resume, "fault", ("out.npy", "out.npy.json", "out.npy.partial")),
}
