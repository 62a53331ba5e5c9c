"""The BERTs that read ranked genes: our own, Geneformer's and BioNeMo's, one network.

They differ in shape, gene table, special tokens and the layer that a cell's vector is read from;
all of that is in the checkpoint directory.

Letters: ``B`` cells of a batch, ``N`` packed tokens, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from cellscribe.cells.rank import rank_cells
from cellscribe.cells.tokens import CellTokens
from cellscribe.config import ModelConfig, ModelOptions, Pooling
from cellscribe.errors import InputError
from cellscribe.families.base import TrainedParts, check_options
from cellscribe.model.attention import Lengths
from cellscribe.model.checkpoint import Checkpoint, to_hugging_face
from cellscribe.model.encoder import Encoder
from cellscribe.model.metadata import LAST_LAYER, pools_of
from cellscribe.model.pooling import Specials

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


def choose_pooling(config: ModelConfig, published: Pooling, options: ModelOptions) -> Pooling:
    """Combine the options of a user with the published pooling.

    Raises
    ------
    InputError
        The model has no such layer, or no [CLS].
    """
    order = {name: name for name in (published.pool, *pools_of(config))}
    pool = check_options(options, order, "a BERT of ranked genes", also=("hidden_layer",))
    chosen = replace(published, pool=pool)  # type: ignore[arg-type]
    if options.hidden_layer is not None:
        chosen = replace(chosen, hidden_layer=options.hidden_layer)
    if -chosen.hidden_layer > config.num_hidden_layers + 1:
        raise InputError(
            f"--hidden-layer {chosen.hidden_layer}: the model has {config.num_hidden_layers} "
            f"layers, -{config.num_hidden_layers + 1} being what goes into the first"
        )
    if chosen.pool in LAST_LAYER and chosen.hidden_layer != -1:
        raise InputError(
            f"--hidden-layer {chosen.hidden_layer}: --pool {chosen.pool} reads the last one; leave "
            "it out, or add --pool genes"
        )
    if chosen.pool == "cls" and not config.cls_token:
        raise InputError("--pool cls: the model reads no [CLS]; use --pool genes")
    return chosen


class Bert:
    """A loaded BERT of ranked genes, see `base.CellModel`."""

    reads_subsets = True

    def __init__(self, checkpoint: Checkpoint, options: ModelOptions | None = None) -> None:
        config, vocabulary = checkpoint.config, checkpoint.vocabulary
        self.config, self.vocabulary = config, vocabulary
        self.rule = choose_pooling(config, checkpoint.pooling, options or ModelOptions())
        self.gene_width = config.hidden_size
        self.width = config.cell_vector_size if self.rule.pool == "head" else self.gene_width
        self.context = config.context
        self.pooling = self.rule.sentence()
        self.specials = Specials(*vocabulary.around(config.cls_token, config.sep_token))
        self.network: Encoder = checkpoint.model.encoder.eval()
        self._whole = checkpoint.model

    def tokenize(self, block: csr_matrix, token_of_column: npt.NDArray[np.int32]) -> CellTokens:
        """Ranked genes of each cell, without special tokens."""
        return rank_cells(block, token_of_column, self.vocabulary.medians, self.context)

    def places(self, cells: CellTokens) -> npt.NDArray[np.int64]:
        """``[B]`` genes and special tokens of each cell, 0 for a cell without a gene."""
        return np.where(cells.lengths > 0, cells.lengths + self.specials.n, 0)

    def embed(self, cells: CellTokens, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        """Vectors of some cells, none of them empty, ``[len(rows), D]`` float32."""
        return self.vectors(*self._hidden(cells, rows))

    def forward(
        self,
        cells: CellTokens,
        rows: npt.NDArray[np.int64],
        places: Sequence[npt.NDArray[np.int64]] | None = None,
    ) -> torch.Tensor:
        """Vectors of some cells, or of some of their genes with their true ranks, see `base`."""
        if places is None:
            return self.embed(cells, rows)
        genes = [cells.tokens[cells.offsets[r] : cells.offsets[r + 1]] for r in rows]
        n_front, n_back = len(self.specials.front), len(self.specials.back)
        ranks = [
            (np.arange(n_front), some + n_front, np.arange(n_back) + n_front + len(cell))
            for cell, some in zip(genes, places, strict=True)
        ]
        device = self.network.positions.weight.device
        shown = [cell[some] for cell, some in zip(genes, places, strict=True)]
        tokens_N, where = self.specials.pack(shown, device)
        ranks_N = torch.from_numpy(np.concatenate([part for cell in ranks for part in cell]))
        ranks_N = ranks_N.to(device)
        network, rule = self.network, self.rule
        hidden_ND = network(tokens_N, where, ranks_N, hidden_layer=rule.hidden_layer)
        return network.cell_vectors(tokens_N, hidden_ND, where, self.specials, rule.pool, ranks_N)

    def trained_parts(self) -> TrainedParts:
        """Tell apart the parts of the network that fine-tuning trains, see `base`."""
        network, skipped = self.network, -1 - self.rule.hidden_layer
        is_last = skipped == 0
        closing = [network.norm] if is_last and self.config.norm == "pre" else []
        blocks = list(network.blocks)
        return TrainedParts(
            blocks=blocks[: len(blocks) - skipped],
            closing=closing,
            vector=[network.pooler] if self.rule.pool == "pooler" and network.pooler else [],
            adapted=("qkv", "attention_out", "up", "down"),
        )

    def stored(self) -> dict[str, torch.Tensor]:
        """Tensors of encoder and masked-gene head under `transformers`' names."""
        encoder = {f"encoder.{name}": x for name, x in self.network.state_dict().items()}
        return to_hugging_face({**self._whole.state_dict(), **encoder})

    def gene_vectors(
        self, cells: CellTokens, rows: npt.NDArray[np.int64]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Genes of some cells and their contextual vectors, see `base.GeneModel`."""
        tokens_N, hidden_ND, where = self._hidden(cells, rows)
        is_gene_N = self.specials.genes_among(tokens_N, where)
        return tokens_N[is_gene_N], hidden_ND[is_gene_N]

    def _hidden(
        self, cells: CellTokens, rows: npt.NDArray[np.int64]
    ) -> tuple[torch.Tensor, torch.Tensor, Lengths]:
        """`hidden` of some cells."""
        return self.hidden([cells.tokens[cells.offsets[r] : cells.offsets[r + 1]] for r in rows])

    def hidden(
        self, ranked: Sequence[npt.NDArray[np.integer]]
    ) -> tuple[torch.Tensor, torch.Tensor, Lengths]:
        """Compute packed tokens of ranked cells, and the hidden layer that is read, ``[N, D]``."""
        tokens_N, where = self.specials.pack(ranked, self.network.positions.weight.device)
        return tokens_N, self.network(tokens_N, where, hidden_layer=self.rule.hidden_layer), where

    def vectors(self, tokens: torch.Tensor, hidden: torch.Tensor, cells: Lengths) -> torch.Tensor:
        """Vectors of cells, ``[B, D]`` float32, from what `hidden` returned; or padded."""
        return self.network.cell_vectors(tokens, hidden, cells, self.specials, self.rule.pool)
