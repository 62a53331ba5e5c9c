"""Cases of the task `mlm`: cells of a file or of a corpus's held-out splits, as a model reads them.

Models that differ in gene table, context or special tokens read other genes of the same cell, so
each such reading is a case of its own. The cells that baselines count are chosen here too.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cellscribe.cells.gene_names.vocabulary import Vocabulary
from cellscribe.evaluation.data import CellProvenance, Cells, Data, draw, provenance_of
from cellscribe.evaluation.scores import UnfitError
from cellscribe.evaluation.tasks.mlm import baselines, masked
from cellscribe.evaluation.tasks.mlm.masked import MaskedCells, Ranked
from cellscribe.families.registry import RankedHeader

if TYPE_CHECKING:
    from cellscribe.config import EvaluateOptions
    from cellscribe.corpus.store import Corpus
    from cellscribe.evaluation.models import Model

CELLS = 500
"""Most cells of a case: some 50,000 masked genes, which give the loss to 0.01 or 0.02."""
FEWEST = 10
"""Fewest cells with a known gene that a file must have."""
PROTOCOL = 1
"""Raised when figures change for the same data and settings."""
SPLITS = ("val", "test", "test_unseen")
Key = tuple[str, int, bool, bool]
"""Hash of the gene table, context, [CLS], [SEP]: equal for the models of one case."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """Cells of one file or split, as models of one gene table read them."""

    name: str
    models: list[Model]
    about: dict[str, Any]
    provenance: CellProvenance
    identity: dict[str, Any]
    vocabulary: Vocabulary
    context: int
    ranked: Ranked
    """Cells whose genes are masked, none of them empty."""
    count: baselines.Count
    options: EvaluateOptions
    _masked: dict[int, MaskedCells] = field(default_factory=dict)

    def masked_cells(self, seed: int) -> MaskedCells:
        """Return the cells with the masks of a seed, the same for every method."""
        if seed not in self._masked:
            self._masked[seed] = masked.mask(self.ranked, self.vocabulary, seed)
        return self._masked[seed]


def load(data: Data, models: Sequence[Model], options: EvaluateOptions) -> list[Case]:
    """Make a case of a file, or of each held-out split of a corpus, for each way to read cells.

    Raises
    ------
    UnfitError
        No model has a masked-gene head, or knows the corpus's genes; the corpus has no held-out
        split; fewer than `FEWEST` cells of a file show a known gene.
    InputError
        As `ModelHeader.map_genes`.
    """
    groups: dict[Key, list[Model]] = {}
    for model in models:
        key = _key(model)
        if key is not None:
            groups.setdefault(key, []).append(model)
    if not groups:
        raise UnfitError(
            "mlm asks BERTs of ranked genes, and no model is one "
            f"({', '.join(m.name for m in models if not m.random)}); name one, such as mini"
        )
    if data.corpus is not None:
        cases = _of_corpus(data.name, data.corpus, groups, options)
    else:
        assert data.cells is not None
        cases = [
            _of_file(data.cells, f"{data.name}{_apart(key, groups)}", some, options)
            for key, some in groups.items()
        ]
    # Models that fit none of the cases go to the first one, so that `methods` gives the reason.
    placed = {id(model) for case in cases for model in case.models}
    misfits = [model for model in models if id(model) not in placed and not model.random]
    cases[0].models.extend(misfits)
    return cases


def _key(model: Model) -> Key | None:
    if not isinstance(model.header, RankedHeader):
        return None
    config = model.header.config
    return model.header.table.hash, config.context, config.cls_token, config.sep_token


def _apart(key: Key, groups: dict[Key, list[Model]]) -> str:
    """Return what differs between a group and the others, for its name; "" for a single group."""
    words = (
        key[0],
        f"context {key[1]:,}",
        "[CLS]" if key[2] else "no [CLS]",
        "[SEP]" if key[3] else "no [SEP]",
    )
    differs = [len({other[place] for other in groups}) > 1 for place in range(len(words))]
    parts = ", ".join(word for word, differ in zip(words, differs, strict=True) if differ)
    return f" ({parts})" if parts else ""


def _of_file(cells: Cells, name: str, models: list[Model], options: EvaluateOptions) -> Case:
    """Make a case of a file; all its cells can be counted, at most `CELLS` are masked."""
    from cellscribe.cells.rank import rank_cells

    header = models[0].header
    assert isinstance(header, RankedHeader)  # `_key` gave a key
    vocabulary, config = header.table, header.config
    genes = header.map_genes(
        cells.var, gene_key=cells.gene_key, species=cells.species, name=cells.name
    )
    found = rank_cells(cells.counts, genes.token, vocabulary.medians, config.context)
    filled = np.flatnonzero(found.lengths)
    if len(filled) < FEWEST:
        raise UnfitError(
            f"{cells.name}: {len(filled)} cells show a gene that {models[0].name} knows, and mlm "
            f"needs {FEWEST}; give a file with more cells"
        )
    everything = Ranked(
        tokens_N=found.tokens.astype(np.int32),
        offsets=found.offsets,
        numbers_B=np.arange(cells.n_cells),
    ).take(filled)
    rows = draw(len(filled), CELLS, options.seed)
    ranked = everything.take(rows)
    return Case(
        name=name,
        models=list(models),
        about=_about(ranked, vocabulary, config.context)
        | {
            "cells without a known gene": cells.n_cells - len(filled),
            "cells counted": len(filled),
            "counted in": "each half of the file for the other",
        },
        provenance=provenance_of(cells.take(filled[rows])),
        identity=_identity(ranked, models[0], options)
        | {"data": cells.hash, "counted": _digest(everything)},
        vocabulary=vocabulary,
        context=config.context,
        ranked=ranked,
        count=baselines.halves(everything, rows, config.context, len(vocabulary)),
        options=options,
    )


def _of_corpus(
    name: str, corpus: Corpus, groups: dict[Key, list[Model]], options: EvaluateOptions
) -> list[Case]:
    """Make cases of the held-out splits of a corpus, for the models with its gene table."""
    from cellscribe.evaluation.tasks.mlm.unigram import count_genes

    ours = {key: some for key, some in groups.items() if key[0] == corpus.vocabulary.hash}
    if not ours:
        raise UnfitError(
            f"{name}: no model has the corpus's gene table {corpus.vocabulary.hash}; train one on "
            "it, or build a corpus with --vocabulary and a model's genes.tsv"
        )
    splits = [split for split in SPLITS if split in corpus.splits]
    if not splits:
        raise UnfitError(f"{name}: all cells are for training; build a corpus with a holdout")
    cases = []
    for key, models in ours.items():
        counted = functools.cache(functools.partial(count_genes, corpus, key[1]))
        for split in splits:
            ranked, left_out = _read_split(corpus, split, key[1], options)
            everyone = np.ones(len(ranked.numbers_B), bool)
            cases.append(
                Case(
                    name=f"{name} {split}{_apart(key, ours)}",
                    models=list(models),
                    about=_about(ranked, corpus.vocabulary, key[1])
                    | {
                        "cells without a known gene": left_out,
                        "cells counted": corpus.splits["train"]["cells"],
                        "counted in": "the corpus's training cells",
                    },
                    provenance=_provenance(corpus, split, ranked.numbers_B),
                    identity=_identity(ranked, models[0], options)
                    | {"data": corpus.hash, "split": split},
                    vocabulary=corpus.vocabulary,
                    context=key[1],
                    ranked=ranked,
                    count=lambda seed, everyone=everyone, counted=counted: [  # type: ignore[misc]
                        (everyone, counted())
                    ],
                    options=options,
                )
            )
    return cases


def _read_split(
    corpus: Corpus, split: str, context: int, options: EvaluateOptions
) -> tuple[Ranked, int]:
    """Read cells of a split in the order of training's validation; and count the empty ones."""
    from cellscribe.config import ReaderOptions, TrainOptions
    from cellscribe.corpus.reader import Reader

    n = min(CELLS, options.max_cells, corpus.splits[split]["cells"])
    reading = ReaderOptions(
        split=split,
        batch_cells=n,
        seed=options.seed,
        lanes=TrainOptions().lanes,
        layout="packed",
        cls_token=False,
        context=context,
    )
    batch = next(Reader(corpus, reading).epoch(0))
    read = Ranked(
        tokens_N=batch.tokens, offsets=batch.offsets.astype(np.int64), numbers_B=batch.cells
    )
    filled = np.flatnonzero(read.lengths_B)
    return read.take(filled), n - len(filled)


def _provenance(corpus: Corpus, split: str, numbers: npt.NDArray[np.int64]) -> CellProvenance:
    """Return hashes of cells of a split, and names of their datasets that have no cell in train.

    `corpus.splits` never divides a dataset between train and a held-out split; if a corpus did,
    a model that was trained on the dataset's other cells would not be marked by its name.
    """
    import pandas as pd

    parts = [t.to_pandas() for t in corpus.cells(split, ["cell", "cell_hash", "dataset_id"])]
    table = pd.concat(parts).set_index("cell").loc[numbers]
    datasets = corpus.manifest["datasets"]
    names = {
        name
        for name in table["dataset_id"].astype(str).unique()
        if datasets.get(name, {}).get("side") != "train"
    }
    return CellProvenance(names=frozenset(names), hashes=table["cell_hash"].to_numpy(np.uint64))


def _about(ranked: Ranked, vocabulary: Vocabulary, context: int) -> dict[str, Any]:
    return {
        "cells": len(ranked.numbers_B),
        "genes of a cell (median)": float(np.median(ranked.lengths_B)),
        "genes in the table": vocabulary.n_genes,
        "context": context,
    }


def _identity(ranked: Ranked, model: Model, options: EvaluateOptions) -> dict[str, Any]:
    """Return all that decides the figures except the hash of the data."""
    from cellscribe.config import TrainOptions
    from cellscribe.evaluation.tasks.mlm.unigram import PER_DOUBLING as RANK_BINS
    from cellscribe.evaluation.tasks.mlm.unigram import PRIORS

    defaults = TrainOptions()
    return {
        "asked": _digest(ranked),
        "reading": _key(model),
        "shares": [defaults.mlm_probability, defaults.masked_share, defaults.random_share],
        "smoothing": [*PRIORS, RANK_BINS],
        "cells": options.max_cells,
        "draw": options.seed,
        "protocol": PROTOCOL,
    }


def _digest(ranked: Ranked) -> str:
    """Hash ranked genes and the numbers of their cells, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in (ranked.tokens_N, ranked.offsets, ranked.numbers_B):
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()[:16]
