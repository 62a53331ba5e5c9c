"""scBERT: its ``preprocess.py`` run as it is, then its PerformerLM cell by cell as it predicts.

Its filter of cells with few genes is set to keep them all. It publishes no vector of a cell, so
the mean over genes of its last hidden layer, which is ours by default, is taken of its own.
``local_attention`` is not needed: no head is local, so a name is enough.
"""

from __future__ import annotations

import contextlib
import importlib
import runpy
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import anndata
import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_matrix

from benchmarks.references import SYMBOLS, Task, stand_in

if TYPE_CHECKING:
    from anndata import AnnData


class Peer:
    """See `references.Peer`."""

    def __init__(self, task: Task) -> None:
        self.task, self.shape = task, task.model["settings"]
        stand_in("local_attention", LocalAttention=object)
        sys.path.insert(0, str(task.clone))
        self.module: Any = importlib.import_module("performer_pytorch.performer_pytorch")
        self.scanpy: Any = importlib.import_module("scanpy")

    def load(self) -> None:
        """Load the published file; its table of gene vectors is in it, and read over zeros."""
        shape = self.shape
        run = Path(tempfile.mkdtemp(dir=self.task.scratch)) / "run"
        table = run.parent / "data" / "gene2vec_16906.npy"
        table.parent.mkdir()
        run.mkdir()
        np.save(table, np.zeros((shape["genes"], shape["width"])))
        with contextlib.chdir(run):
            self.network: Any = self.module.PerformerLM(
                num_tokens=shape["bins"] + 2,
                dim=shape["width"],
                depth=shape["depth"],
                max_seq_len=shape["genes"] + 1,
                heads=shape["heads"],
                dim_head=shape["head_width"],
                local_attn_heads=0,
                g2v_position_emb=True,
            )
        data = torch.load(self.task.source, map_location="cpu", weights_only=False)
        self.network.load_state_dict(data["model_state_dict"])
        self.network.eval()

    def ready(self, cells: AnnData) -> Path:
        """Folder with the files that ``preprocess.py`` reads."""
        folder = Path(tempfile.mkdtemp(dir=self.task.scratch))
        (folder / "data").mkdir()
        genes = self.task.model["symbols"]
        order = anndata.AnnData(csr_matrix((1, len(genes)), dtype=np.float32))
        order.var_names = genes
        order.write_h5ad(folder / "data" / "panglao_10000.h5ad")
        named = cells.copy()
        named.var.index = cells.var[SYMBOLS].to_numpy()
        named.write_h5ad(folder / "data" / "your_raw_data.h5ad")
        return folder

    @torch.no_grad()
    def embed(self, ready: Path) -> npt.NDArray[np.float32]:
        """Mean of the last hidden layer over genes."""
        with (
            contextlib.chdir(ready),
            patch.object(self.scanpy.pp, "filter_cells", lambda *words, **more: None),
        ):
            runpy.run_path(str(self.task.clone / "preprocess.py"))
        cells = anndata.read_h5ad(ready / "data" / "preprocessed_data.h5ad").X
        highest, out = self.shape["bins"], []
        for row in range(cells.shape[0]):
            values = np.minimum(cells[row].toarray()[0], highest)
            tokens = torch.from_numpy(np.append(values, 0)).long()[None]
            out.append(self.network(tokens, return_encodings=True)[0, :-1].mean(0).numpy())
        return np.stack(out)

    def compared(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """What `embed` gave: the published rule leaves no choice."""
        return vectors
