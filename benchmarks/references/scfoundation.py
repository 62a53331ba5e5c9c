"""scFoundation: its ``get_embedding.py`` run as it is, on a file of its own genes' raw counts.

``.cuda()`` is made to do nothing, an empty module stands for ``local_attention``, which is not
used, and the checkpoint, loaded once by its own loader, is handed to the script when it asks. For a
model of other than 19,264 genes run Python with -O, which leaves the script's check out.
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

from benchmarks.references import SYMBOLS, Task, stand_in

if TYPE_CHECKING:
    from anndata import AnnData

BRANCH = "cell"
GENES = "OS_scRNA_gene_index.19264.tsv"


class Peer:
    """See `references.Peer`."""

    def __init__(self, task: Task) -> None:
        self.task = task
        model = task.model
        self.names = [name for name in model["symbols"] if not name.startswith("<")]
        stand_in("local_attention", LocalAttention=None)
        sys.path.insert(0, str(task.clone / "model"))
        self.module: Any = importlib.import_module("load")
        importlib.import_module("scanpy")  # so that the script's own import takes no time
        patch("torch.Tensor.cuda", lambda tensor: tensor).start()
        patch("torch.nn.Module.cuda", lambda module: module).start()

    def load(self) -> None:
        """Load the branch for cell embeddings."""
        source = self.task.source
        if source.is_dir():
            inside = source / "models" / "models.ckpt"
            source = inside if inside.is_file() else source / "models.ckpt"
        self.loaded = self.module.load_model_frommmf(str(source), BRANCH)

    def ready(self, cells: AnnData) -> Path:
        """Folder with the file of cells and the gene list that the script reads."""
        folder = Path(tempfile.mkdtemp(dir=self.task.scratch))
        lines = [f"{name}\t{place}" for place, name in enumerate(self.names)]
        (folder / GENES).write_text("\n".join(("gene_name\tindex", *lines)) + "\n")
        column = {name: place for place, name in enumerate(cells.var[SYMBOLS])}
        columns = [column[name] for name in self.names if name in column]
        known = anndata.AnnData(cells.X[:, columns])
        known.var_names = [name for name in self.names if name in column]
        known.write_h5ad(folder / "cells.h5ad")
        return folder

    def embed(self, ready: Path) -> npt.NDArray[np.float32]:
        """Vectors pooled the ``all`` way, aimed at 10^4 counts."""
        words = ["get_embedding.py", "--data_path", "cells.h5ad", "--save_path", "."]
        words += ["--pre_normalized", "F", "--pool_type", "all", "--tgthighres", "t4"]
        with (
            contextlib.chdir(ready),
            patch.object(sys, "argv", words),
            patch.object(self.module, "load_model_frommmf", lambda path, key: self.loaded),
        ):
            script = self.task.clone / "model" / "get_embedding.py"
            runpy.run_path(str(script), run_name="__main__")
        (written,) = ready.glob("*_resolution.npy")
        vectors: npt.NDArray[np.float32] = np.load(written)
        return np.atleast_2d(vectors)

    def compared(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """What `embed` gave: the published rule leaves no choice."""
        return vectors
