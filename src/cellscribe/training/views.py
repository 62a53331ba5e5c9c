"""Two views of each training cell, and scores of the whole cell: what the second objective sees.

A view is the cell with some of its counts (as if it had been sequenced less deeply), ranked again,
and of these ranks a random set of genes, or one of two disjoint halves. The two views of a cell are
drawn independently. Draws depend on seed, epoch, cell and view alone, so neither batches nor ranks
nor a stop change them.

Letters: ``B`` cells of a micro batch, ``2B`` their views, first views first, ``K`` scores.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_matrix, vstack

from cellscribe.cells.downsample import downsample
from cellscribe.cells.gene_names.vocabulary import CLS
from cellscribe.cells.rank import rank_cells
from cellscribe.cells.tokens import CellTokens
from cellscribe.config import ModelConfig, TrainOptions
from cellscribe.corpus.components import MOST_CELLS, Components, fit_components
from cellscribe.corpus.store import Corpus
from cellscribe.training.masking import MaskedBatch, mask_cells
from cellscribe.training.objective import VIEWS
from cellscribe.training.training_counts import SPLIT, TrainingCounts

OF_VIEW = 1 << 60
"""Added to a cell's number for its second view, so that its masks are its own."""
OPTION = "two views of cells (regression_weight and contrast_weight)"

Ints = npt.NDArray[np.int64]
Ranked = npt.NDArray[np.uint16]


class Views:
    """Makes masked views of cells of a corpus.

    Parameters
    ----------
    corpus
        Corpus that was built with its counts.
    config, options
        Shape of the model, rules of the views, and seed.
    components
        Principal components that give the scores; fitted on the corpus if not given.

    Raises
    ------
    InputError
        The counts are missing.
    """

    def __init__(
        self,
        corpus: Corpus,
        config: ModelConfig,
        options: TrainOptions,
        components: Components | None = None,
    ) -> None:
        self._counts = TrainingCounts(corpus, OPTION)
        self._vocabulary, self._config, self._options = corpus.vocabulary, config, options
        if components is None:
            some = np.arange(len(self._counts))
            if len(some) > MOST_CELLS:
                random = np.random.default_rng(options.seed)
                some = np.sort(random.choice(some, MOST_CELLS, replace=False))
            components = fit_components(
                self._counts.at(some),
                _datasets(corpus)[some],
                config.cell_scores,
                seed=options.seed,
            )
        self.components = components

    def masked(self, cells_B: Ints, epoch: int, *, whole: bool) -> MaskedBatch:
        """Draw and mask two views of each cell.

        Parameters
        ----------
        cells_B
            Numbers of cells of the training split.
        epoch
            Epoch of the draws, from 0 on.
        whole
            Keep all genes of each view, whatever `genes_per_cell` and `shared_genes`.
        """
        options = self._options
        counts = self._counts.rows(cells_B)
        front = [CLS] if self._config.cls_token else []
        tokens, ranks = [], []
        for view in range(VIEWS):
            generators = [self._generator(epoch, cell, view) for cell in cells_B]
            ranked = self._downsampled(counts, generators)
            for row, (cell, random) in enumerate(zip(cells_B, generators, strict=True)):
                genes = ranked.tokens[ranked.offsets[row] : ranked.offsets[row + 1]]
                places = np.arange(len(genes))
                if not whole:
                    places = self._chosen(genes, self._generator(epoch, cell, VIEWS), view, random)
                tokens.append(np.concatenate([front, genes[places]]).astype(np.int32))
                ranks.append(np.concatenate([np.arange(len(front)), len(front) + places]))
        batch = mask_cells(
            np.concatenate(tokens),
            np.array([len(cell) for cell in tokens], np.int32),
            np.concatenate([cells_B, cells_B + OF_VIEW]),
            1 + epoch,
            (self._vocabulary.n_special, len(self._vocabulary)),
            options,
            front=len(front),
            positions_N=np.concatenate(ranks),
        )
        scores_BK = self.components.scores(counts) * self.components.target_scale
        return replace(batch, scores_BK=torch.from_numpy(scores_BK.astype(np.float32)))

    def _generator(self, epoch: int, cell: np.int64, stream: int) -> np.random.Generator:
        """Make the generator of a view; the stream after the views' is that of both."""
        key = [self._options.seed, (epoch * (VIEWS + 1) + stream) << 40 | int(cell)]
        return np.random.Generator(np.random.Philox(key=key))

    def _downsampled(self, counts: csr_matrix, generators: list[np.random.Generator]) -> CellTokens:
        """Keep a random share of each cell's counts, and rank what is left."""
        options, parts = self._options, []
        totals_B = np.asarray(counts.sum(axis=1)).ravel()
        for row, random in enumerate(generators):
            least = np.clip(options.least_counts / max(totals_B[row], 1), options.least_share, 1)
            share = np.exp(random.uniform(np.log(least), 0.0))
            parts.append(downsample(counts[row], share, random))
        columns = np.arange(counts.shape[1], dtype=np.int32)
        medians, context = self._vocabulary.medians, self._config.context
        return rank_cells(vstack(parts, format="csr"), columns, medians, context)

    def _chosen(
        self, genes: Ranked, both: np.random.Generator, view: int, random: np.random.Generator
    ) -> Ints:
        """Choose places of a ranked cell that a view shows, ascending.

        Parameters
        ----------
        genes
            Ranked genes of the view.
        both
            Decides which genes the two views share, and whose the others are.
        view
            0 or 1.
        random
            Decides number and choice.
        """
        options, places = self._options, np.arange(len(genes))
        if options.shared_genes < 1:
            fate = both.random(len(self._vocabulary))[genes]
            is_shared, is_first = fate < options.shared_genes, fate < (1 + options.shared_genes) / 2
            own = np.flatnonzero(is_shared | (is_first == (view == 0)))
            places = own if len(own) else places
        if options.genes_per_cell is None:
            return places
        least = min(options.min_genes_per_cell or options.genes_per_cell, options.genes_per_cell)
        wanted = int(random.integers(least, options.genes_per_cell + 1))
        if wanted >= len(places):
            return places
        return np.sort(random.choice(places, wanted, replace=False))


def _datasets(corpus: Corpus) -> Ints:
    """Read the number of the dataset of each training cell, in the order of the shards."""
    names = [table["dataset_id"].to_pandas() for table in corpus.cells(SPLIT, ["dataset_id"])]
    return np.unique(np.concatenate([part.astype(str) for part in names]), return_inverse=True)[1]
