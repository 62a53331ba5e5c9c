"""A few cells as text: Matrix Market, tables of names, and what reading them gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from cellscribe.cells.counts import open_counts
from cellscribe.errors import InputError
from support.tiny import real_genes

N_CELLS, N_GENES = 6, 14
IDS, SYMBOLS = real_genes(N_GENES)
CELLS = [f"AAACCC{'ACGTAC'[i]}AGG{'TTGACA'[i]}ACGT-1" for i in range(N_CELLS)]
DENSE = np.random.default_rng(3).poisson(0.9, (N_CELLS, N_GENES)) * 7
FEATURES = "".join(f"{i}\t{s}\tGene Expression\n" for i, s in zip(IDS, SYMBOLS, strict=True))
BARCODES = "".join(f"{cell}\n" for cell in CELLS)


def mtx(
    dense: np.ndarray = DENSE.T,
    *,
    kind: str = "coordinate integer general",
    sep: str = " ",
    value: Callable[[Any], str] = str,
    end: str = "\n",
) -> str:
    """Matrix Market text; rows are genes unless `dense` is given the other way."""
    x = sp.coo_matrix(dense)
    lines = [f"%%MatrixMarket matrix {kind}", "%", sep.join(map(str, (*x.shape, x.nnz)))]
    lines += [
        f"{row + 1}{sep}{column + 1}{sep}{value(count)}"
        for row, column, count in zip(x.row, x.col, x.data, strict=True)
    ]
    return end.join(lines) + end


def put(folder: Path, files: dict[str, str | bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        data = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(data)
    return folder


def tenx(**changed: str) -> dict[str, str | bytes]:
    """Files of a 10x folder; a keyword such as ``features_tsv`` replaces a file."""
    files: dict[str, str | bytes] = {
        "matrix.mtx": mtx(),
        "features.tsv": FEATURES,
        "barcodes.tsv": BARCODES,
    }
    return files | {name.replace("_", "."): text for name, text in changed.items()}


def read(source: Any) -> tuple[pd.DataFrame, list[str], pd.DataFrame]:
    """Counts as a frame of cells x gene names, the log lines, and var."""
    said: list[str] = []
    with open_counts(source, log=said.append) as counts:
        blocks = list(counts.blocks(4))
        frame = pd.DataFrame(
            sp.vstack(blocks).toarray(), index=counts.obs.index, columns=counts.var.index
        )
        return frame, said, counts.var


def same_cells(source: Any, *, names: list[str] = SYMBOLS, dense: np.ndarray = DENSE) -> list[str]:
    """Assert that a source has the cells; returns what was said on the way."""
    frame, said, _ = read(source)
    assert list(frame.columns) == names
    assert list(frame.index) == CELLS
    np.testing.assert_array_equal(frame.to_numpy(), dense)
    return said


def refusal(source: Any) -> str:
    with pytest.raises(InputError) as caught:
        read(source)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500 + len(str(source)), message
    return message


def as_csv() -> str:
    """The cells as a table with a line for each gene."""
    return pd.DataFrame(DENSE.T, index=SYMBOLS, columns=CELLS).to_csv()
