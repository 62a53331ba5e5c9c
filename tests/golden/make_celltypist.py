"""Records what CellTypist itself says of simulated cells, in celltypist.json.

    pip install celltypist==1.7.1 "scikit-learn<1.7"      # in an environment of its own
    python tests/golden/make_celltypist.py

Its training as it is by default and with its feature selection, of two labels and of three, on
counts that are kept with the answers: the genes that it took, and its decision scores of cells that
it did not see.
"""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import celltypist
import numpy as np
import pandas as pd
from anndata import AnnData

GENES, CELLS, LEARNT = 420, 72, 48


def counts_of(n_labels: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n_labels)
    truth = np.arange(CELLS) % n_labels
    level = np.tile(rng.gamma(0.5, 0.6, GENES), (CELLS, 1))
    for label in range(n_labels):
        level[np.ix_(truth == label, np.arange(25) + 25 * label)] *= 3
    return rng.poisson(level), truth


def recorded(n_labels: int) -> dict:
    counts, truth = counts_of(n_labels)
    logs = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)
    names = [f"g{gene}" for gene in range(GENES)]
    kept = {"counts": counts.tolist(), "truth": truth.tolist(), "learnt": LEARNT}
    for name, more in (("default", {}), ("chosen", {"feature_selection": True})):
        model = celltypist.train(
            AnnData(logs[:LEARNT], var=pd.DataFrame(index=names)),
            labels=truth[:LEARNT].astype(str),
            random_state=0,
            **more,
        )
        rest = AnnData(logs[LEARNT:], var=pd.DataFrame(index=names))
        found = celltypist.annotate(rest, model=model)
        kept[name] = {
            "scores": found.decision_matrix.to_numpy().round(6).tolist(),
            "genes": sorted(int(name[1:]) for name in model.features),
        }
    return kept


if __name__ == "__main__":
    kept = {
        "celltypist": metadata.version("celltypist"),
        "scikit-learn": metadata.version("scikit-learn"),
        "sets": {str(n): recorded(n) for n in (2, 3)},
    }
    Path(__file__).with_name("celltypist.json").write_text(json.dumps(kept, separators=(",", ":")))
