"""What we are measured against: the published way to tokenise, and the plain way to embed.

- Tokenising follows the published description of Geneformer's tokeniser: a backed h5ad in chunks of
  512 cells, a sparse normalisation a chunk, a NumPy sort a cell, a Hugging Face dataset built from
  the lists, truncated by `map` in two processes and saved to disk.
- Embedding is `transformers.BertModel` in float32 on batches of 16 cells sorted by length and
  padded, with its default attention (torch's fused kernel): what a careful user would write.

Both take our gene table and our weights, so that the same tokens and the same vectors come out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cellscribe.cells.gene_names.vocabulary import CLS, Vocabulary
from cellscribe.errors import InputError

if TYPE_CHECKING:
    import torch
    from transformers import BertModel

CHUNK = 512
BATCH = 16
TARGET_SUM = 10_000
SAME = 1e-6
"""Values closer than this tie: the peer divides by the total in float32, as its original does."""


def rank_cells_one_by_one(source: Path, vocabulary: Vocabulary) -> Iterator[npt.NDArray[np.int64]]:
    """Tokens of each cell of an h5ad, highest rank first and not cut, by one NumPy sort a cell.

    Parameters
    ----------
    source
        h5ad with a CSR `X` of raw counts, Ensembl ids as `var_names`, totals in `obs["n_counts"]`.
    vocabulary
        Genes outside it are left out.

    Raises
    ------
    InputError
        `obs` has no `n_counts`.
    """
    import anndata
    from scipy.sparse import csr_matrix

    adata = anndata.read_h5ad(source, backed="r")
    try:
        if "n_counts" not in adata.obs:
            raise InputError(
                f"{source}: the peer needs obs['n_counts']; make the file with real_cells"
            )
        known = np.flatnonzero([name in vocabulary.token_of for name in adata.var_names])
        tokens = np.array([vocabulary.token_of[adata.var_names[column]] for column in known])
        medians = vocabulary.medians[tokens]
        totals = adata.obs["n_counts"].to_numpy()
        for start in range(0, adata.n_obs, CHUNK):
            counts = adata.X[start : start + CHUNK][:, known]
            total = totals[start : start + CHUNK, None]
            scaled = csr_matrix(counts / total * TARGET_SUM / medians)
            for cell in range(scaled.shape[0]):
                row = scaled[cell]
                yield tokens[row.indices[np.argsort(-row.data)]]
    finally:
        adata.file.close()


def tokenize_peer(
    source: Path,
    out: Path,
    vocabulary: Vocabulary,
    *,
    context: int,
    cls_token: bool,
    processes: int | None = 2,
) -> None:
    """Tokenise an h5ad into a Hugging Face dataset on disk (``input_ids``, ``length``).

    Parameters
    ----------
    source, vocabulary
        As for `rank_cells_one_by_one`.
    out
        Directory to write.
    context
        Genes kept a cell.
    cls_token
        Put ``[CLS]`` in front.
    processes
        Workers of `datasets.Dataset.map`; None stays in this process.
    """
    import datasets

    front = [CLS] if cls_token else []

    def cut(row: dict[str, list[int]]) -> dict[str, object]:
        kept = [*front, *row["input_ids"][:context]]
        return {"input_ids": kept, "length": len(kept)}

    bars = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        ranked = datasets.Dataset.from_dict(
            {"input_ids": list(rank_cells_one_by_one(source, vocabulary))}
        )
        ranked.map(cut, num_proc=processes).save_to_disk(out)
    finally:
        if bars:
            datasets.enable_progress_bars()


def compare_tokens(
    source: Path, ours: Path, peer: Path, vocabulary: Vocabulary
) -> tuple[list[int], int]:
    """Genes of each cell, and the number of cells that the two sides rank otherwise.

    At every place the scaled values of both genes must be equal to `SAME`: genes that tie may swap.

    Parameters
    ----------
    source, vocabulary
        What was tokenised, as for `rank_cells_one_by_one`.
    ours
        Parquet file with a column ``input_ids``.
    peer
        From `tokenize_peer`.

    Raises
    ------
    InputError
        The three differ in their number of cells.
    """
    import anndata
    import datasets
    import pyarrow.parquet as pq
    from scipy.sparse import csr_matrix

    adata = anndata.read_h5ad(source)
    counts = csr_matrix(adata.X)
    token_of_column = np.array([vocabulary.token_of.get(name, -1) for name in adata.var_names])
    left = pq.read_table(ours, columns=["input_ids"])["input_ids"]
    right = datasets.load_from_disk(str(peer)).data["input_ids"]
    if not len(left) == len(right) == counts.shape[0]:
        raise InputError(
            f"{source} has {counts.shape[0]:,} cells, {ours} {len(left):,}, {peer} {len(right):,}"
        )
    value_of_token = np.zeros(len(vocabulary))
    lengths, differing = [], 0
    for cell, (mine, theirs) in enumerate(zip(left, right, strict=True)):
        row = slice(counts.indptr[cell], counts.indptr[cell + 1])
        tokens = token_of_column[counts.indices[row]]
        known = tokens >= 0
        value_of_token[:] = 0
        value_of_token[tokens[known]] = counts.data[row][known] / vocabulary.medians[tokens[known]]
        a, b = (side.values.to_numpy().astype(np.int64) for side in (mine, theirs))
        a, b = a[a >= vocabulary.n_special], b[b >= vocabulary.n_special]
        lengths.append(len(a))
        same = len(a) == len(b) and len(np.unique(a)) == len(a)
        differing += not (
            same and np.allclose(value_of_token[a], value_of_token[b], rtol=SAME, atol=0)
        )
    return lengths, differing


def load_bert(checkpoint: Path, device: str = "cpu") -> BertModel:
    """Read a checkpoint directory of ours as `transformers.BertModel`, float32, in eval mode."""
    import torch
    from transformers import BertModel
    from transformers.utils import logging

    # It reports the masked-gene head's weights as unused, which is what is meant here.
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        bert = BertModel.from_pretrained(checkpoint, add_pooling_layer=False, dtype=torch.float32)
    finally:
        logging.set_verbosity(level)
    # Module.to by name: the library's own wrapper hides its signature from type checkers.
    torch.nn.Module.to(bert, device)
    return bert.eval()


def embed_peer(
    bert: BertModel, cells: Sequence[npt.NDArray[np.integer]], *, cls_token: bool
) -> npt.NDArray[np.float32]:
    """Mean of the last hidden layer over gene tokens, by padded batches of 16 cells.

    Parameters
    ----------
    bert
        From `load_bert`.
    cells
        ``B`` arrays of gene tokens, without special tokens, cut to the context, none empty.
    cls_token
        Put ``[CLS]`` in front; it is not part of the mean.

    Returns
    -------
    numpy.ndarray
        ``[B, D]`` in the order of `cells`.
    """
    import torch

    front, pad = int(cls_token), bert.config.pad_token_id or 0
    order = np.argsort([-len(cell) for cell in cells], kind="stable")
    out = np.empty((len(cells), bert.config.hidden_size), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            tokens_BL, mask_BL = _pad([cells[row] for row in rows], front, pad)
            tokens_BL, mask_BL = tokens_BL.to(bert.device), mask_BL.to(bert.device)
            hidden_BLD = bert(input_ids=tokens_BL, attention_mask=mask_BL).last_hidden_state
            genes_BL1 = mask_BL[:, front:, None].float()
            mean_BD = (hidden_BLD[:, front:] * genes_BL1).sum(1) / genes_BL1.sum(1)
            out[rows] = mean_BD.cpu().numpy()
    return out


def _pad(
    cells: list[npt.NDArray[np.integer]], front: int, pad: int
) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    longest = front + max(len(cell) for cell in cells)
    tokens_BL = torch.full((len(cells), longest), pad)
    mask_BL = torch.zeros_like(tokens_BL)
    tokens_BL[:, :front] = CLS
    for row, cell in enumerate(cells):
        end = front + len(cell)
        tokens_BL[row, front:end] = torch.from_numpy(cell.astype(np.int64))
        mask_BL[row, :end] = 1
    return tokens_BL, mask_BL
