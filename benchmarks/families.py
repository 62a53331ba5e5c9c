"""Load and embed with an imported model, compared with the code that its family publishes.

Each turn of a side is a process of its own, so that loading is loading and memory is its own: ours
at its default precision, ours in float32, the published code in float32 (A B C A B C). Both sides
read the same real cells; weights are read once beforehand, so that none finds them cold. That both
compute the same is shown by the largest difference of the vectors in float32, as a share of the
largest value.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.family_side import OURS, OURS_FLOAT32, THEIRS
from benchmarks.memory import PROC
from benchmarks.real_cells import real_cells
from benchmarks.record import commit_state, write_result
from benchmarks.references import ABOUT, SYMBOLS, check_reference
from cellscribe.cells.gene_names.genes import human_genes
from cellscribe.errors import InputError
from cellscribe.families.registry import ModelHeader, RankedHeader, open_tokenizer, read_model
from cellscribe.model.metadata import BERTS

RESULTS = Path("benchmarks/results")
SIDE = ("-m", "benchmarks.family_side")
WARM_UP_CELLS = 2
PACKAGES = ("torch", "transformers", "megatron-core", "scanpy", "einops", "anndata")
"""Those whose versions matter to a peer."""
Records = dict[str, list[dict[str, Any]]]


def imported_family(model: str) -> str | None:
    """Family of an imported model; None for a preset or a model of our own.

    Raises
    ------
    InputError
        The directory is no model, or a damaged one.
    """
    if not Path(model).is_dir():
        return None
    family = read_model(model).family
    return None if family == BERTS[0] else family


def bench_family(
    data: Path,
    model: Path,
    source: Path | None = None,
    reference: Path | None = None,
    cells: int = 100,
    repeats: int = 3,
    out: Path = RESULTS,
) -> Path:
    """Measure an imported model, on the CPU.

    Parameters
    ----------
    data
        Folder of real h5ad files, see `real_cells`.
    model
        Directory of an imported model.
    source
        The published checkpoint that it was imported from, which the published code reads.
    reference
        Clone of the family's public repository; without one only ours is measured. Geneformer needs
        none: it is compared with `transformers`.
    cells
        Cells of the file that is embedded.
    repeats
        Turns of each side.
    out
        Folder of results.

    Raises
    ------
    InputError
        Something is missing, or a side ended.
    """
    if min(cells, repeats) < 1:
        raise InputError("--cells and --repeats must be positive")
    if not (PROC / "self" / "status").exists():
        raise InputError(
            "memory is read from /proc, which only Linux has; run this benchmark there"
        )
    header = read_model(model)
    peer = _peer(header.family, source, reference)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        made_of = _write_cells(data, cells, scratch)
        (scratch / "about.json").write_text(json.dumps(describe(header)), encoding="utf-8")
        settings = {
            "model": str(model),
            "source": None if source is None else str(source.resolve()),
            "clone": None if reference is None else str(reference.resolve()),
            "scratch": name,
            **{key: str(scratch / f"{key}.h5ad") for key in ("small", "cells")},
            "about": str(scratch / "about.json"),
            "tokens": str(scratch / "tokens.npz"),
        }
        for folder in (model, source) if peer and source else (model,):
            _read_once(folder)
        sides = (OURS, OURS_FLOAT32, THEIRS) if peer else (OURS, OURS_FLOAT32)
        records = _in_turns(sides, settings, repeats)
        vectors = {side: np.load(_vectors(scratch, side)) for side in sides}
    figures = {
        "parameters": _parameters(header),
        **rates(records, cells),
        "largest_difference": (
            difference(vectors[OURS_FLOAT32], vectors[THEIRS]) if peer else None
        ),
        "difference_of_default": difference(vectors[OURS], vectors[OURS_FLOAT32]),
        "cells_from": made_of,
        "published": peer,
    }
    about = {
        "family": header.family,
        "model": header.provenance.get("model", header.name),
        "cells": cells,
        "repeats": repeats,
        "device": "cpu",
        **{
            key: {side: records[side][0][key] for side in records}
            for key in ("precision", "threads")
        },
    }
    return write_result(out, f"embed-{header.name}-cpu", "families", about, figures)


def describe(header: ModelHeader) -> dict[str, Any]:
    """What a peer must know of an imported model, as JSON holds it.

    Returns
    -------
    dict
        ``family``, ``ids``, ``symbols``, ``n_special``, ``settings``; of a BERT also ``medians``,
        ``config``, ``pooling``, and the tokens ``front`` and ``back`` of every cell.
    """
    table = header.table
    about: dict[str, Any] = {
        "family": header.family,
        "ids": table.ids,
        "symbols": table.symbols,
        "n_special": table.n_special,
        "settings": header.settings,
    }
    if not isinstance(header, RankedHeader):
        return about
    tokenizer = open_tokenizer(header)
    return about | {
        "medians": header.table.medians.tolist(),
        "config": dataclasses.asdict(header.config),
        "pooling": dataclasses.asdict(header.pooling),
        "front": tokenizer.front,
        "back": tokenizer.back,
    }


def _peer(family: str, source: Path | None, reference: Path | None) -> dict[str, Any] | None:
    """Facts of the peer; None if ours is measured alone."""
    about = ABOUT[family]
    if not about.repository and reference is not None:
        raise InputError(f"{family} is compared with {about.packages[0][0]}: no --reference")
    if about.repository and reference is None:
        return None
    if source is None or not source.exists():
        raise InputError(
            f"--source {source}: the published code of {family} reads the checkpoint that the "
            "model was imported from; name it with --source"
        )
    check_reference(family, reference)
    commit = None if reference is None else commit_state(reference)["hash"]
    return {
        "what": about.what,
        "repository": about.repository or None,
        "commit": commit,
        "cells_a_batch": about.batch,
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _write_cells(data: Path, cells: int, scratch: Path) -> dict[str, Any]:
    """Write ``cells.h5ad`` and ``small.h5ad``; genes by Ensembl id and by symbol."""
    import anndata

    path = scratch / "cells.h5ad"
    made_of = real_cells(data, max(cells, WARM_UP_CELLS), path)
    adata = anndata.read_h5ad(path)
    table = human_genes()
    symbol_of = dict(zip(table["ensembl_id"], table["symbol"], strict=True))
    adata.var[SYMBOLS] = [symbol_of.get(name, "") for name in adata.var_names]
    adata[:WARM_UP_CELLS].copy().write_h5ad(scratch / "small.h5ad")
    adata[:cells].copy().write_h5ad(path)
    return made_of


def _read_once(path: Path) -> None:
    """Bring the files of a checkpoint into the system's cache."""
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as stream:
                while stream.read(1 << 24):
                    pass


def _vectors(scratch: Path, side: str) -> Path:
    return scratch / f"{side}.npy"


def _in_turns(sides: tuple[str, ...], settings: dict[str, Any], repeats: int) -> Records:
    """Collect the record of each turn of each side; vectors and tokens are those of the first."""
    records: Records = {side: [] for side in sides}
    for turn in range(repeats):
        for side in sides:
            vectors = str(_vectors(Path(settings["scratch"]), side))
            mine = {**settings, "side": side, "vectors": vectors, "keep": turn == 0}
            records[side].append(_turn(mine))
    return records


def _turn(settings: dict[str, Any]) -> dict[str, Any]:
    """Run a side once over.

    Raises
    ------
    InputError
        It ended without an answer; its last line of stderr is passed on.
    """
    done = subprocess.run(
        [sys.executable, *SIDE, json.dumps(settings)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        last = lines[-1] if lines else f"status {done.returncode}, not a word"
        if done.returncode < 0:
            last = f"killed by signal {-done.returncode}"
        raise InputError(f"{settings['side']} ended: {last}; if memory ran out, lower --cells")
    record: dict[str, Any] = json.loads(done.stdout)
    if "refused" in record:
        raise InputError(record["refused"])
    return record


def rates(records: Records, cells: int) -> dict[str, Any]:
    """Raw seconds and peaks by side, and what follows from them: medians, and their ratios."""
    raw = {
        what: {side: [turn[key] for turn in turns] for side, turns in records.items()}
        for what, key in (("seconds_to_load", "load"), ("seconds", "embed"), ("peak_mb", "peak_mb"))
    }
    median = {side: statistics.median(each) for side, each in raw["seconds"].items()}
    load = {side: statistics.median(each) for side, each in raw["seconds_to_load"].items()}
    figures: dict[str, Any] = {
        **raw,
        "cells_per_second": {side: cells / each for side, each in median.items()},
        "median_seconds_to_load": load,
        "highest_peak_gb": {side: max(each) / 1e3 for side, each in raw["peak_mb"].items()},
    }
    if THEIRS in records:
        ours = [side for side in records if side != THEIRS]
        figures["ratio_of_medians"] = {side: median[THEIRS] / median[side] for side in ours}
    return figures


def difference(ours: npt.NDArray[np.float32], theirs: npt.NDArray[np.float32]) -> float:
    """Largest difference of two sets of vectors, as a share of the largest value of the second.

    Raises
    ------
    RuntimeError
        They are not of one shape, or not all numbers.
    """
    if ours.shape != theirs.shape or not np.isfinite([ours, theirs]).all():
        raise RuntimeError(
            f"vectors of {list(ours.shape)} and {list(theirs.shape)}, or values that are no "
            "numbers: the sides do not compute the same"
        )
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def _parameters(header: ModelHeader) -> int:
    """Numbers in the weights file; tensors that branches share count once."""
    from safetensors import safe_open

    with safe_open(header.directory / "model.safetensors", framework="np") as weights:
        shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118
    return sum(math.prod(shape) for shape in shapes)
