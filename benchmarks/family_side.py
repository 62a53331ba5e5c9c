"""One side of `bench embed` for an imported model, in a process of its own, once over.

``python -m benchmarks.family_side SETTINGS`` (JSON) loads a model, embeds a few cells that
nobody times, embeds the cells, and prints one JSON line: seconds of both, and the most memory that
the process has held. Imports are done before the clock starts.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.memory import PROC
from benchmarks.references import Task, make_peer
from cellscribe.errors import InputError

OURS, OURS_FLOAT32, THEIRS = "cellscribe", "cellscribe_float32", "published"
PRECISION = {OURS: "auto", OURS_FLOAT32: "float32"}


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """Load and embed; vectors and tokens are kept where the settings name files for them.

    Parameters
    ----------
    settings
        ``side``; paths: ``model``, ``source``, ``clone``, ``about``, ``small`` and ``cells`` (h5ad
        files), ``scratch``, ``tokens``, ``vectors``; ``keep``: whether to write the last two.

    Returns
    -------
    dict
        ``load``, ``embed``: seconds; ``peak_mb``; ``threads``; ``precision``.
    """
    run = _theirs if settings["side"] == THEIRS else _ours
    return run(settings)


def _ours(settings: dict[str, Any]) -> dict[str, Any]:
    from cellscribe import families
    from cellscribe.inference.embedder import load

    for module in pkgutil.walk_packages(families.__path__, "cellscribe.families."):
        importlib.import_module(module.name)
    began = time.perf_counter()
    precision: Any = PRECISION[settings["side"]]
    embedder = load(settings["model"], device="cpu", precision=precision)
    loaded = time.perf_counter() - began
    embedder.embed(settings["small"])
    began = time.perf_counter()
    vectors = embedder.embed(settings["cells"])
    result = {
        "load": loaded,
        "embed": time.perf_counter() - began,
        "peak_mb": peak_mb(),
        "threads": embedder.threads,
        "precision": embedder.precision,
    }
    if settings["keep"]:
        np.save(settings["vectors"], vectors)
        _save_tokens(embedder, settings)
    return result


def _save_tokens(embedder: Any, settings: dict[str, Any]) -> None:
    """Write the tokens of all cells, for the other side."""
    from cellscribe.cells.counts import open_counts
    from cellscribe.cells.tokens import CellTokens

    with open_counts(settings["cells"]) as counts:
        genes = embedder.header.map_genes(counts.var, name=counts.name)
        parts = [embedder.cells.tokenize(block, genes.token) for block in counts.blocks()]
    cells = CellTokens.concatenate(parts)
    values = np.zeros(len(cells.tokens), np.float32) if cells.values is None else cells.values
    np.savez(settings["tokens"], tokens=cells.tokens, offsets=cells.offsets, values=values)


def _theirs(settings: dict[str, Any]) -> dict[str, Any]:
    import anndata
    import torch

    about = json.loads(Path(settings["about"]).read_text(encoding="utf-8"))
    peer = make_peer(
        Task(
            source=Path(settings["source"]),
            clone=Path(settings["clone"] or "."),
            model=about,
            tokens=Path(settings["tokens"]),
            scratch=Path(settings["scratch"]),
        )
    )
    small, cells = (anndata.read_h5ad(settings[name]) for name in ("small", "cells"))
    began = time.perf_counter()
    peer.load()
    loaded = time.perf_counter() - began
    peer.embed(peer.ready(small))
    ready = peer.ready(cells)
    began = time.perf_counter()
    vectors = peer.embed(ready)
    result = {
        "load": loaded,
        "embed": time.perf_counter() - began,
        "peak_mb": peak_mb(),
        "threads": torch.get_num_threads(),
        "precision": "float32",
    }
    if settings["keep"]:
        np.save(settings["vectors"], peer.compared(vectors))
    return result


def peak_mb() -> float:
    """Most memory that this process has held, MB of 10^6 bytes.

    The kernel's mark of this program alone: getrusage's also counts the process that started it.
    """
    lines = (PROC / "self" / "status").read_text().splitlines()
    (mark,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(mark) * 1.024e-3


def main(settings: dict[str, Any]) -> None:
    """Print one line."""
    # Whatever a library prints, in Python or below it, must not come between.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        result = measure(settings)
    except InputError as error:
        result = {"refused": str(error)}
    print(json.dumps(result), file=out, flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
