"""What anyone can do without a model: classifiers of log-normalised counts, on the same folds.

Two of them. Logistic regression on the most variable genes. And CellTypist's recipe (Domínguez
Conde et al. 2022, doi:10.1126/science.abl5197; package celltypist 1.7, MIT), which is followed, not
copied: log1p of counts to 10,000, all expressed genes standardised and cut at 10, then logistic
regression, one label against the rest. That is its default; on demand a linear classifier by
stochastic gradient descent first names the 300 genes of largest weight of each label.

Letters: ``B`` cells, ``G`` genes, ``C`` labels.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix, vstack

from cellscribe.annotation.linear import fit_linear
from cellscribe.annotation.rotation import row_space
from cellscribe.callbacks import Progress
from cellscribe.cells.log_norm import log_norm, most_variable
from cellscribe.errors import InputError
from cellscribe.inference.session import Cells

VARIABLE = 1_000
"""Genes of the logistic regression."""
PENALTIES = (0.001, 0.01, 0.1)
"""Values of scikit-learn's C that are tried for it."""
CUT, TOP, ROUNDS, ALPHA = 10.0, 300, 1_000, 1e-4
"""CellTypist's highest standardised value, genes a label, rounds, and decay of the descent."""

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.integer]


def read_logs(
    sources: Sequence[Cells], rows: Sequence[Integers], kept: Integers, progress: Progress | None
) -> csr_matrix:
    """Read the log-normalised counts of labelled cells, by the genes that all sources have.

    Parameters
    ----------
    sources
        Opened files; columns are one gene where they have one token, or one name.
    rows
        Rows of each source, ascending.
    kept
        Ascending places among the cells of these rows that are read.
    progress
        Called with (cells done, cells in all).

    Returns
    -------
    scipy.sparse.csr_matrix
        ``[len(kept), G]`` float32.

    Raises
    ------
    InputError
        The files share no gene.
    """
    names = [_names(each) for each in sources]
    shared = set.intersection(*(set(each) for each in names))
    if not shared:
        raise InputError("the files have no gene in common; check their gene identifiers")
    columns = [
        [place[name] for name in sorted(shared)]
        for place in ({name: at for at, name in enumerate(each)} for each in names)
    ]
    parts, first, done = [], 0, 0
    total = sum(each.counts.n_cells for each in sources)
    for each, some, own in zip(sources, rows, columns, strict=True):
        wanted = some[kept[(kept >= first) & (kept < first + len(some))] - first]
        first, start = first + len(some), 0
        for block in each.counts.blocks():
            here = wanted[(wanted >= start) & (wanted < start + block.shape[0])] - start
            # normalised by all counts of a cell, before any gene is left out
            parts.append(log_norm(block[here])[:, own].astype(np.float32))
            start += block.shape[0]
            done += block.shape[0]
            if progress is not None:
                progress(done, total)
    return csr_matrix(vstack(parts, format="csr"))


def _names(cells: Cells) -> list[str]:
    """Name each column by its token; one that the model does not know by its own name."""
    own = cells.counts.var.index.astype(str)
    return [
        f"token {token}" if token >= 0 else f"name {name}"
        for token, name in zip(cells.genes.token.tolist(), own, strict=True)
    ]


def regression_scores(
    logs: csr_matrix, truth: Integers, n_labels: int, learn: Any, away: Any
) -> dict[float, npt.NDArray[np.float64]]:
    """Scores of logistic regression on the most variable genes, for each of `PENALTIES`.

    Parameters
    ----------
    logs
        ``[B, G]`` of `read_logs`.
    truth
        ``[B]`` classes.
    n_labels
        ``C``.
    learn, away
        ``[B]`` bool: cells that are learnt, also the choice of genes, and cells that are scored.

    Returns
    -------
    dict
        ``[cells of away, C]`` by penalty.
    """
    genes = most_variable(csr_matrix(logs[learn]), VARIABLE)
    learnt, scored = (logs[rows][:, genes].toarray().astype(np.float64) for rows in (learn, away))
    return {
        penalty: fit_linear(learnt, truth[learn], n_labels, penalty).logits(scored)
        for penalty in PENALTIES
    }


def celltypist_scores(
    logs: csr_matrix,
    truth: Integers,
    n_labels: int,
    learn: Any,
    away: Any,
    seed: int | None = None,
) -> npt.NDArray[np.float64]:
    """Scores of CellTypist's recipe, ``[cells of away, C]``; arguments as `regression_scores`.

    With a `seed` genes are chosen first (its ``feature_selection=True``); else it is its default.
    """
    learnt, scored = standardised_and_cut(logs, learn, away)
    scores = np.full((len(scored), n_labels), -np.inf)
    classes = np.unique(truth[learn])
    if len(classes) == 1:
        scores[:, classes] = 0.0
        return scores
    if seed is not None and learnt.shape[1] > TOP:
        genes = heavy_genes(learnt, truth[learn], seed)
        learnt, scored = learnt[:, genes], scored[:, genes]
    scores[:, classes] = one_against_the_rest(learnt, truth[learn], scored)
    return scores


def standardised_and_cut(
    logs: csr_matrix, learn: Any, away: Any
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Genes that the learnt cells show, standardised by these, no value above `CUT`."""
    shown = np.flatnonzero(np.asarray(logs[learn].sum(axis=0)).ravel() > 0)
    learnt, scored = (logs[rows][:, shown].toarray().astype(np.float32) for rows in (learn, away))
    mean, scale = learnt.mean(axis=0, dtype=np.float64), learnt.std(axis=0, dtype=np.float64)
    for table in (learnt, scored):
        table -= mean.astype(np.float32)
        table /= np.where(scale > 0, scale, 1).astype(np.float32)
        np.minimum(table, CUT, out=table)
    return learnt, scored


def heavy_genes(learnt: Floats, truth: Integers, seed: int) -> npt.NDArray[np.int64]:
    """Columns among the `TOP` of largest weight of any label, by stochastic gradient descent."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import SGDClassifier

    model = SGDClassifier(loss="log_loss", alpha=ALPHA, max_iter=ROUNDS, random_state=seed)
    space = row_space(learnt)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(learnt if space is None else space.project(learnt), truth)
    weight = model.coef_ if space is None else space.weights(model.coef_)
    return np.unique(np.argpartition(np.abs(weight), -TOP, axis=1)[:, -TOP:])


def one_against_the_rest(
    learnt: Floats, truth: Integers, scored: Floats
) -> npt.NDArray[np.float64]:
    """Scores of logistic regression, one label against the rest: ``[B, labels of truth]``."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from threadpoolctl import threadpool_limits

    if (space := row_space(learnt)) is not None:
        learnt, scored = space.project(learnt), space.project(scored)
    each: Any = LogisticRegression(C=1.0, max_iter=ROUNDS)
    if len(np.unique(truth)) > 2:
        each = OneVsRestClassifier(each)
    with warnings.catch_warnings(), threadpool_limits(1, "blas"):
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = each.fit(learnt, truth).decision_function(scored)
    return np.column_stack([-found, found]) if found.ndim == 1 else found
