"""The benchmarks: tokenise, embed, memory. Each writes one JSON result and returns its path.

Ours and the peer work on the same file of real cells in one process, in turns (A B A B), after a
warm-up of both that compiles kernels and fills the page cache; interpreter and library start-up
are outside. The ratio is that of the medians. The peer of `bench_embed` gets its tokens ready made,
ours reads, ranks and embeds: where that is unfair, it is unfair to us.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import memory, peers, tokenize_parts
from benchmarks.real_cells import real_cells
from benchmarks.record import write_result
from cellscribe.cells.gene_names.vocabulary import Vocabulary
from cellscribe.cells.pipeline import usable_cores
from cellscribe.config import ModelConfig, load_preset, preset_names
from cellscribe.model import peak

RESULTS = Path("benchmarks/results")
WARM_UP_CELLS = 600
CURVE_POINTS = 60


def bench_tokenize(
    data: Path,
    cells: int = 12_000,
    repeats: int = 3,
    model: str = "mini",
    out: Path = RESULTS,
) -> Path:
    """Measure h5ad to Parquet against a per-cell NumPy loop that builds a Hugging Face dataset.

    Parameters
    ----------
    data
        Folder of real h5ad files, see `real_cells`.
    cells
        Cells of the file that is tokenised.
    repeats
        Measurements of each side.
    model
        Checkpoint directory or bundled model whose gene table and context are used.
    out
        Folder of results.
    """
    from cellscribe import tokenize

    vocabulary, context, cls_token = _gene_table(model)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        small, source = scratch / "small.h5ad", scratch / "cells.h5ad"
        real_cells(data, min(cells, WARM_UP_CELLS), small)
        made_of = real_cells(data, cells, source)

        def ours(file: Path, target: Path) -> None:
            tokenize(file, target.with_suffix(".parquet"), model=model)

        def peer(file: Path, target: Path) -> None:
            peers.tokenize_peer(file, target, vocabulary, context=context, cls_token=cls_token)

        sides = {"cellscribe": ours, "peer": peer}
        for side, run in sides.items():
            run(small, scratch / f"warm-{side}")
        seconds = _in_turns(
            {side: partial(_numbered, run, source, scratch / side) for side, run in sides.items()},
            repeats,
        )
        lengths, differing = peers.compare_tokens(
            source, scratch / "cellscribe-0.parquet", scratch / "peer-0", vocabulary
        )
        parts = tokenize_parts.measure_parts(source, scratch / "parts.parquet", model, repeats)
    figures = {
        **_rates(seconds, cells),
        "cells_from": made_of,
        "genes_per_cell": _quantiles(lengths),
        "cells_with_other_tokens": differing,
        "seconds_of_parts": parts,
        "seconds_without_loss": tokenize_parts.fastest(parts, usable_cores()),
        "load_after": os.getloadavg(),
    }
    settings = {"cells": cells, "repeats": repeats, "model": Path(model).name, "context": context}
    return write_result(out, "tokenize", "tokenize", settings, figures)


def bench_embed(
    data: Path,
    model: str = "geneformer-10m",
    cells: int = 400,
    repeats: int = 3,
    device: str = "auto",
    out: Path = RESULTS,
) -> Path:
    """Measure h5ad to vectors against `transformers.BertModel` in float32 on padded batches of 16.

    Parameters
    ----------
    data, cells, repeats, out
        As for `bench_tokenize`.
    model
        Preset (with random weights), checkpoint directory or bundled model.
    device
        ``"auto"``, ``"cpu"`` or a CUDA device; both sides use the same.
    """
    import torch

    import cellscribe

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        checkpoint, random_weights = _checkpoint(model, scratch / "model")
        config = _config(checkpoint)
        vocabulary = Vocabulary.read(checkpoint / "genes.tsv")
        small, source = scratch / "small.h5ad", scratch / "cells.h5ad"
        real_cells(data, min(cells, 2 * peers.BATCH), small)
        made_of = real_cells(data, cells, source)
        tokens = [
            ranked[: config.context] for ranked in peers.rank_cells_one_by_one(source, vocabulary)
        ]
        peaks = peak.measure_peak(device)
        embedder = cellscribe.load(
            checkpoint, device=device, pool="genes"
        )  # as the peer makes its vectors
        bert = peers.load_bert(checkpoint, device)
        embedder.embed(small)
        seconds, vectors = _embed_in_turns(embedder, bert, source, tokens, config, repeats)
    figures = {
        **_rates(seconds, cells),
        "cells_from": made_of,
        "lowest_cosine": float(_cosines(vectors["cellscribe"], vectors["peer"]).min()),
        **_work(seconds, [len(cell) + config.cls_token for cell in tokens], config, peaks),
    }
    kind = torch.device(device).type
    settings = {
        "cells": cells,
        "repeats": repeats,
        "model": Path(model).name,
        "random_weights": random_weights,
        "device": kind,
        "precision": str(getattr(embedder, "precision", "auto")),
        "peer_attention": bert.config._attn_implementation,
    }
    return write_result(out, f"embed-{Path(model).name}-{kind}", "embed", settings, figures, device)


def bench_memory(
    data: Path,
    cells: int = 1_000_000,
    model: str = "mini",
    device: str = "cpu",
    context: int | None = None,
    scratch: Path | None = None,
    out: Path = RESULTS,
) -> Path:
    """Measure the resident memory of ``cellscribe embed`` over its whole run on a large file.

    Parameters
    ----------
    data, out
        As for `bench_tokenize`.
    cells
        Cells of the file; a million take about 8 GB of disk.
    model
        Preset (with random weights), checkpoint directory or bundled model.
    device
        Handed to ``cellscribe embed``.
    context
        Most genes a cell, where the model's own number would take hours: what lies in memory for
        each cell of the file is the same.
    scratch
        Where to put the file and the vectors; the system's folder for temporary files if not given.
    """
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder = Path(name)
        checkpoint, random_weights = _checkpoint(model, folder / "model")
        if context is not None:
            checkpoint = _with_context(checkpoint, context, folder / "short")
        source = folder / "cells.h5ad"
        made_of = real_cells(data, cells, source, compression="lzf")
        command = [sys.executable, "-m", "cellscribe", "embed", str(source)]
        command += ["-o", str(folder / "vectors.npy")]
        command += ["--model", str(checkpoint), "--device", device]
        curve = memory.measure_memory(command)
        weights = (checkpoint / "model.safetensors").stat().st_size
        genes_read = _config(checkpoint).context
        source_mb = 8e-6 * made_of["non_zeros"]
    thin = curve.thinned(CURVE_POINTS)
    figures = {
        "cells_from": made_of,
        "counts_in_memory_mb": round(source_mb, 1),
        "weights_on_disk_mb": round(weights * 1e-6, 1),
        "peak_mb": curve.peak_mb,
        "growth_mb": round(curve.growth_mb(), 1),
        "seconds": curve.seconds[-1],
        "cells_per_second": cells / curve.seconds[-1],
        "curve": {"seconds": thin.seconds, "rss_mb": thin.rss_mb},
    }
    settings = {
        "cells": cells,
        "model": Path(model).name,
        "random_weights": random_weights,
        "device": device,
        "context": genes_read,
    }
    return write_result(out, f"memory-{Path(model).name}", "memory", settings, figures, device)


def _numbered(run: Callable[[Path, Path], None], source: Path, target: Path, turn: int) -> None:
    run(source, target.with_name(f"{target.name}-{turn}"))


def _in_turns(sides: dict[str, Callable[[int], None]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every side, `repeats` times round."""
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(repeats):
        for side, run in sides.items():
            start = time.perf_counter()
            run(turn)
            seconds[side].append(time.perf_counter() - start)
    return seconds


def _embed_in_turns(
    embedder: Any,
    bert: Any,
    source: Path,
    tokens: list[npt.NDArray[np.int64]],
    config: ModelConfig,
    repeats: int,
) -> tuple[dict[str, list[float]], dict[str, npt.NDArray[np.float32]]]:
    """Seconds and vectors of both sides; the peer is warmed up here."""
    vectors = {}

    def ours(turn: int) -> None:
        vectors["cellscribe"] = embedder.embed(source)

    def peer(turn: int) -> None:
        vectors["peer"] = peers.embed_peer(bert, tokens, cls_token=config.cls_token)

    peers.embed_peer(bert, tokens[: 2 * peers.BATCH], cls_token=config.cls_token)
    return _in_turns({"cellscribe": ours, "peer": peer}, repeats), vectors


def _rates(seconds: dict[str, list[float]], cells: int) -> dict[str, Any]:
    medians = {side: statistics.median(each) for side, each in seconds.items()}
    return {
        "seconds": seconds,
        "cells_per_second": {side: cells / median for side, median in medians.items()},
        "ratio_of_medians": medians["peer"] / medians["cellscribe"],
    }


def _work(
    seconds: dict[str, list[float]],
    lengths: list[int],
    config: ModelConfig,
    peaks: dict[str, dict[str, float]],
) -> dict[str, Any]:
    """Rate of the encoder's own work, padding not counted, and its share of the measured peak."""
    from cellscribe.model.encoder import flops_per_cell

    gflop = 1e-9 * sum(flops_per_cell(config, length) for length in lengths)
    rates = {side: gflop / statistics.median(each) for side, each in seconds.items()}
    return {
        "tokens_per_cell": _quantiles(lengths),
        "gflop_per_second": rates,
        "peak_gflop_per_second": peaks,
        "share_of_peak": {side: rate / peak.highest(peaks) for side, rate in rates.items()},
    }


def _quantiles(lengths: Sequence[int]) -> dict[str, float]:
    points = (0, 5, 25, 50, 75, 95, 100)
    return {
        f"p{point}": float(value)
        for point, value in zip(points, np.percentile(lengths, points), strict=True)
    }


def _cosines(
    left: npt.NDArray[np.floating], right: npt.NDArray[np.floating]
) -> npt.NDArray[np.float64]:
    """Cosine of each pair of rows, ``[B, D]`` twice to ``[B]``."""
    left, right = left.astype(np.float64), right.astype(np.float64)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return (left * right).sum(1) / norms


def _config(checkpoint: Path) -> ModelConfig:
    from cellscribe.model.metadata import config_from_json

    path = checkpoint / "config.json"
    return config_from_json(path.read_text(encoding="utf-8"), str(path))[0]


def _with_context(checkpoint: Path, context: int, target: Path) -> Path:
    """Copy a checkpoint that reads fewer genes a cell."""
    shutil.copytree(checkpoint, target)
    path = target / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["cellscribe"]["context"] = context
    path.write_text(json.dumps(config), encoding="utf-8")
    return target


def _gene_table(model: str) -> tuple[Vocabulary, int, bool]:
    from cellscribe.model.metadata import find_checkpoint

    checkpoint = find_checkpoint(model)
    config = _config(checkpoint)
    return Vocabulary.read(checkpoint / "genes.tsv"), config.context, config.cls_token


def _checkpoint(model: str, target: Path) -> tuple[Path, bool]:
    """Directory of a model and whether its weights are random; a preset's are made in `target`."""
    from cellscribe.model.checkpoint import save_checkpoint
    from cellscribe.model.encoder import MaskedGeneModel, initialise
    from cellscribe.model.metadata import bundled_models, find_checkpoint

    if model not in preset_names() or model in bundled_models() or Path(model).is_dir():
        return find_checkpoint(model), False
    network = MaskedGeneModel(load_preset(model))
    initialise(network, seed=0)
    vocabulary = Vocabulary.read(find_checkpoint("mini") / "genes.tsv")
    save_checkpoint(target, network, vocabulary, {"weights": "random"})
    return target, True
