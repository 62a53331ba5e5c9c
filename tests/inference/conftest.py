"""A run of a few small blocks, which can be stopped in its middle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.runs import N_CELLS, Run


@pytest.fixture(scope="session")
def hundred_cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import scipy.sparse as sp
    from support.formats import annotated
    from support.tiny import real_genes, some_counts

    path = tmp_path_factory.mktemp("cells") / "cells.h5ad"
    annotated(sp.csr_matrix(some_counts(N_CELLS)), real_genes).write_h5ad(path)
    return path


@pytest.fixture
def run(hundred_cells: Path, tiny_model: Path) -> Run:
    """Embeds `hundred_cells`, or another source; may stop itself as Ctrl-C would."""
    from cellscribe.api.embed import embed_file
    from cellscribe.config import EmbedOptions

    def embed(out: Path, stop_after: int | None = None, **options: Any) -> Any:
        def progress(done: int, total: int) -> None:
            if stop_after is not None and done > stop_after:
                raise KeyboardInterrupt

        chosen = {"model": str(tiny_model), "precision": "float32", "device": "cpu"} | options
        cells = chosen.pop("source", hundred_cells)
        return embed_file(cells, out, EmbedOptions(**chosen), progress=progress)

    return embed
