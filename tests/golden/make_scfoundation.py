"""Write ``scfoundation.json``: what scFoundation's own script makes of formula weights.

    git clone https://github.com/biomap-research/scFoundation
    git -C scFoundation checkout d09626a5c1bc30b9c6227378677b61e0b987fe8b
    PYTHONPATH=src:tests python -O tests/golden/make_scfoundation.py scFoundation

Needs torch, einops, scanpy and the real cells and gene list of ``../shared``; ten minutes and 4 GB.
The published ``get_embedding.py`` runs as it is, on a table of raw counts by gene symbol, in a
folder where it finds our checkpoint; only ``.cuda()`` is made to do nothing, and an empty module
stands for ``local_attention``, which it imports and does not use. It decodes expression by the
branch ``gene`` alone, so for read-depth enhancement our branch ``rde`` is put in that one's place.
With -O, Python leaves out its check that there are 19,264 genes, so that a smaller table passes.
"""

from __future__ import annotations

import contextlib
import json
import runpy
import sys
import tempfile
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import anndata
import numpy as np
import pandas as pd
import torch
from families.published_scfoundation import (
    MADE_NAMES,
    Size,
    made_cells,
    published_names,
    write_published,
)

SHARED = Path(__file__).resolve().parents[3] / "shared"
REAL = [("pbmc3k_10x.h5ad", row) for row in (0, 15, 18)]
EVERY = 8
"""Of the published genes, every eighth is in the small model."""
N_MADE = 4
"""The fifth made cell has one count, at which the script stops."""
RUNS: dict[str, tuple[str, ...]] = {
    "all": (),
    "max": ("--pool_type", "max"),
    "all f2": ("--tgthighres", "f2"),
    "max a5": ("--tgthighres", "a5", "--pool_type", "max"),
    "rde-all t4.5": ("--tgthighres", "t4.5", "--version", "rde"),
    "genes": ("--output_type", "gene"),
    "enhanced a1": ("--tgthighres", "a1", "--output_type", "gene_expression"),
}
FULL_RUNS = ("all", "max", "genes", "enhanced a1")
STEPS: dict[str, dict[str, tuple[slice, ...]]] = {
    "small": {"genes": (slice(0, None, 50), slice(None)), "enhanced": (slice(0, None, 5),)},
    "real": {
        "cells": (slice(0, None, 2),),
        "genes": (slice(0, None, 400), slice(None)),
        "enhanced": (slice(0, None, 20),),
    },
    "full": {
        "cells": (slice(0, None, 8),),
        "genes": (slice(0, None, 800), slice(0, None, 32)),
        "enhanced": (slice(0, None, 50),),
    },
}
"""What is kept of each result."""
ABOUT = {
    "made by": "tests/golden/make_scfoundation.py",
    "reference": (
        "https://github.com/biomap-research/scFoundation at "
        "d09626a5c1bc30b9c6227378677b61e0b987fe8b, model/get_embedding.py"
    ),
    "torch": torch.__version__,
    "runs": {name: " ".join(flags) for name, flags in RUNS.items()},
    "kept": {
        size: {what: [part.step or 1 for part in parts] for what, parts in kept.items()}
        for size, kept in STEPS.items()
    },
}


def run_reference(
    checkout: Path, folder: Path, counts: pd.DataFrame, run: str
) -> tuple[np.ndarray, list[torch.Tensor]]:
    """Run ``get_embedding.py`` on a table of counts.

    Returns
    -------
    out
        ``[cells, ...]``, what it saves.
    read
        Of each cell the values that its encoder takes, then their places.
    """
    import load

    read: list[torch.Tensor] = []
    gather = load.gatherData

    def gathered(*arguments: Any) -> Any:
        out = gather(*arguments)
        read.append(out[0][0])
        return out

    models = folder / "models"
    models.mkdir(exist_ok=True)
    weights = folder / ("swapped.ckpt" if run.startswith("enhanced") else "models.ckpt")
    (models / "models.ckpt").unlink(missing_ok=True)
    (models / "models.ckpt").symlink_to(weights)
    counts.to_csv(folder / "cells.csv")
    words = ["get_embedding.py", "--data_path", str(folder / "cells.csv"), "--save_path"]
    words += [str(folder), "--pre_normalized", "F", "--ckpt_name", "out", *RUNS[run]]
    with (
        contextlib.chdir(folder),
        patch.object(sys, "argv", words),
        patch.object(load, "gatherData", gathered),
        patch("torch.Tensor.cuda", lambda tensor: tensor),
        patch("torch.nn.Module.cuda", lambda module: module),
    ):
        runpy.run_path(str(checkout / "model" / "get_embedding.py"), run_name="__main__")
    (written,) = folder.glob("*_resolution.npy")
    out = np.load(written)
    written.unlink()
    return out, read


def record(
    checkout: Path, size: Size, kept: str, counts: pd.DataFrame, names: Sequence[str]
) -> list[dict[str, Any]]:
    """What is kept of each cell."""
    cells: list[dict[str, Any]] = [{} for _ in range(len(counts))]
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_published(Path(scratch) / "model", size, names=names)
        data = torch.load(folder / "models.ckpt")
        torch.save({"gene": data["rde"]}, folder / "swapped.ckpt")
        del data
        for run in FULL_RUNS if size == "full" else RUNS:
            what = run.partition(" ")[0]
            out, read = run_reference(checkout, folder, counts, run)
            if run == "all":
                for cell, values, places in zip(cells, read[::2], read[1::2], strict=True):
                    cell["tokens"], cell["values"] = places.tolist(), digits(values.numpy())
            part = STEPS[kept].get(what if what in ("genes", "enhanced") else "cells", ())
            if what in ("genes", "enhanced"):
                out = out[:, : len(names)]
            for cell, array in zip(cells, out, strict=True):
                chosen = array[part] if part else array
                cell[run] = {"shape": list(array.shape), "values": digits(chosen)}
    return cells


def digits(array: np.ndarray) -> list[float]:
    """Seven digits of each number, in one row."""
    return [float(f"{x:.7g}") for x in array.ravel()]


def main(checkout: Path) -> None:
    """Write ``scfoundation.json``."""
    unused: Any = types.ModuleType("local_attention")
    unused.LocalAttention = None
    sys.modules["local_attention"] = unused
    sys.path.insert(0, str(checkout / "model"))
    golden: dict[str, Any] = {"about": ABOUT}
    made = pd.DataFrame(made_cells()[:N_MADE].toarray(), columns=list(MADE_NAMES))
    golden["made"] = record(checkout, "small", "small", made, MADE_NAMES)
    listed = published_names(SHARED / "genes")
    rows = [row for _, row in REAL]
    data = anndata.read_h5ad(SHARED / "data" / REAL[0][0])[rows]
    real = pd.DataFrame(data.X.toarray(), columns=data.var["gene_symbol"].astype(str).tolist())
    for key, size, names in (("real", "small", listed[::EVERY]), ("full", "full", listed)):
        counts = real[[name for name in names if name in real.columns]]
        found = record(checkout, size, key, counts, names)
        golden[key] = [
            {"file": file, "row": row, **cell}
            for (file, row), cell in zip(REAL, found, strict=True)
        ]
    text = json.dumps(golden, indent=1).replace("\n     ", " ").replace("\n    ]", "]")
    Path(__file__).with_name("scfoundation.json").write_text(text + "\n")


if __name__ == "__main__":
    if __debug__:
        raise SystemExit("run with python -O, see above")
    main(Path(sys.argv[1]).resolve())
