"""Counts of a known truth, so that a metric can be tested against what it claims to measure.

The model is one sum of logarithms. A cell's expected log expression of gene ``g`` is ::

    eta[g] = base[g] + sum_r activity[r] * weight[r, g] + donor[g] + batch[g]

and its counts are a gamma-Poisson mixture (negative binomial, dispersion `DISPERSION`) around
``library size * softmax(eta)``. Regulators ``r`` are genes themselves, with weight 1 on their own
expression; they come in modules, and the regulators of one module act on overlapping targets with
the same signed weights, so that what one knock-down does tells something of its neighbour's. A
cell's activity is that of its type, plus noise of its own that makes a module's genes co-vary
inside a type, less ``ln 5`` for a regulator that is knocked down: it falls to a fifth, and its
targets follow along their weights. Nothing but these terms tells cells apart, and each strength
scales one term, so a strength of 0 leaves no trace.

Gamma-Poisson counts around means that are scaled to log-normal library sizes, with log-normal
factors by group and batch: Splatter (Zappia, Phipson and Oshlack 2017). Cell types that differ in
the activity of master regulators: SERGIO (Dibaeinia and Sinha 2020), of which this is the
steady state to first order, without its dynamics. Sizes are of plain convenience, fitted to
nothing: figures on such counts say whether a metric works, never how good a model is.

Letters: ``B`` cells, ``G`` genes, ``R`` regulators.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import csr_matrix, vstack

if TYPE_CHECKING:
    from anndata import AnnData

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

CONTROL = "ctrl"
REMAINS = 0.2
"""Share of a gene's expression that its knock-down leaves."""
DISPERSION = 0.2
"""Of the negative binomial: variance is mean + 0.2 mean^2."""
BASE_SPREAD = 1.2
"""Standard deviation of the genes' log expression."""
CELL_SPREAD = 0.25
"""Standard deviation of a module's activity among cells of one type."""
BATCH_SPREAD, DONOR_SPREAD = 0.5, 0.25
"""Standard deviations of the genes' log shifts at a batch strength of 1."""
MODULE = 4
"""Regulators of a module."""
BLOCK = 500
"""Cells whose counts are drawn at once."""


@dataclass(frozen=True, kw_only=True)
class _Programme:
    regulators: Integers
    """``[R]`` gene numbers; the first ones are those that are knocked down."""
    modules: Integers
    """``[R]``."""
    weights: Floats
    """``[R, G]``, 1 on the regulator itself."""


def simulate(
    genes: Sequence[str],
    *,
    cells: int = 600,
    types: int = 4,
    donors: int = 1,
    batches: int = 1,
    batch_strength: float = 0.0,
    type_strength: float = 1.0,
    depth: float = 3000.0,
    depth_spread: float = 0.4,
    knockdowns: int = 0,
    knockdown_effect: float = 1.0,
    seed: int = 0,
) -> AnnData:
    """Draw raw counts from a gene-regulatory programme.

    Parameters
    ----------
    genes
        Ids of 20 genes or more, all different: `var_names` of the result.
    cells, types, donors, batches
        Numbers; types, donors and batches are drawn independently of each other, each as even as
        may be.
    batch_strength
        Scales the gene-wise shifts of batches and donors; 1 is a strong batch.
    type_strength
        Scales how types differ in the activity of regulators.
    depth
        Mean library size, counts a cell.
    depth_spread
        Standard deviation of its logarithm.
    knockdowns
        Regulators that are knocked down, each in an equal share of half of the cells; the other
        half are controls.
    knockdown_effect
        Scales ``ln 0.2``, the change of a knocked-down gene's log expression, and with it what its
        targets do.
    seed
        Of all draws. Settings other than numbers of cells and genes leave the rest as it is: the
        same seed at two strengths gives the same programme, labels and library sizes.

    Returns
    -------
    AnnData
        X: ``[cells, genes]`` CSR of raw counts, float32. obs: `cell_type`, `donor`, `batch`,
        `condition` ("ctrl" or "GENE+ctrl") and `depth`, the library size that was expected.
        var: `regulator`. uns["truth"]: `regulators` ({gene: {"targets", "weights"}}), `types`
        ({type: ``[G]`` log shift}), `batches` and `donors` (likewise), and `knockdowns` ({gene:
        ``[G]`` log fold change against control}). Shifts and changes are of `eta` above: scaling to
        the library size adds the same number to all genes of a cell.

    Raises
    ------
    ValueError
        A number makes no sense.
    """
    _check(genes, cells, types, donors, batches, knockdowns)
    streams = [np.random.default_rng([seed, part]) for part in range(6)]
    programme = _draw_programme(len(genes), knockdowns, streams[0])
    n_regulators, n_modules = len(programme.regulators), int(programme.modules.max()) + 1

    activities = type_strength * streams[1].normal(size=(types, n_regulators))
    shifts = {
        "batch": batch_strength * BATCH_SPREAD * streams[2].normal(size=(batches, len(genes))),
        "donor": batch_strength * DONOR_SPREAD * streams[3].normal(size=(donors, len(genes))),
    }
    fall = knockdown_effect * np.log(REMAINS)

    labels = streams[4]
    which = {
        "cell_type": _even(cells, types, labels),
        "donor": _even(cells, donors, labels),
        "batch": _even(cells, batches, labels),
    }
    knocked = np.full(cells, -1)
    if knockdowns:
        treated = labels.permutation(cells)[: cells // 2]
        knocked[treated] = np.arange(len(treated)) % knockdowns

    noise = streams[5]
    base = noise.normal(0.0, BASE_SPREAD, len(genes))
    # A knock-down that no count shows would be no truth to be found.
    base[programme.regulators] = np.abs(base[programme.regulators])
    sizes = depth * np.exp(noise.normal(0.0, depth_spread, cells) - depth_spread**2 / 2)
    activity = activities[which["cell_type"]]
    activity += CELL_SPREAD * noise.normal(size=(cells, n_modules))[:, programme.modules]
    activity[knocked >= 0, knocked[knocked >= 0]] += fall

    blocks = []
    for start in range(0, cells, BLOCK):
        rows = slice(start, min(start + BLOCK, cells))
        eta = base + activity[rows] @ programme.weights
        for name, shift in shifts.items():
            eta += shift[which[name][rows]]
        blocks.append(_draw_counts(eta, sizes[rows], noise))
    return _annotate(genes, vstack(blocks).tocsr(), programme, which, knocked, sizes, {
        "cell_type": activities @ programme.weights,
        **shifts,
        "knockdowns": fall * programme.weights[:knockdowns],
    })  # fmt: skip


def _check(
    genes: Sequence[str], cells: int, types: int, donors: int, batches: int, knockdowns: int
) -> None:
    if len(genes) < 20 or len(set(genes)) < len(genes):
        raise ValueError(f"20 different genes or more are needed, not {len(set(genes))}")
    if min(cells, types, donors, batches) < 1:
        raise ValueError("cells, types, donors and batches must be 1 or more")
    if not 0 <= knockdowns <= len(genes) // 2:
        raise ValueError(f"knockdowns must be 0 to half of the genes, not {knockdowns}")


def _draw_programme(n_genes: int, knockdowns: int, random: np.random.Generator) -> _Programme:
    """Draw who regulates whom; regulators regulate no regulator, so effects are direct."""
    n_regulators = max(knockdowns, MODULE, min(100, n_genes // 10))
    n_modules = max(2, n_regulators // MODULE)
    order = random.permutation(n_genes)
    regulators, targets = order[:n_regulators], order[n_regulators:]
    modules = np.arange(n_regulators) % n_modules
    module_of_target = np.arange(len(targets)) % n_modules
    strength = random.uniform(0.3, 1.0, len(targets)) * random.choice([-1.0, 1.0], len(targets))
    acts = (modules[:, None] == module_of_target) & (
        random.random((n_regulators, len(targets))) < 0.5
    )
    weights = np.zeros((n_regulators, n_genes))
    weights[:, targets] = acts * strength
    weights[np.arange(n_regulators), regulators] = 1.0
    return _Programme(regulators=regulators, modules=modules, weights=weights)


def _even(cells: int, parts: int, random: np.random.Generator) -> Integers:
    return random.permutation(np.arange(cells) % parts)


def _draw_counts(eta: Floats, sizes: Floats, random: np.random.Generator) -> csr_matrix:
    means = np.exp(eta - eta.max(axis=1, keepdims=True))
    means *= (sizes / means.sum(axis=1))[:, None]
    means *= random.standard_gamma(1 / DISPERSION, means.shape) * DISPERSION
    return csr_matrix(random.poisson(means).astype(np.float32))


def _annotate(
    genes: Sequence[str],
    counts: csr_matrix,
    programme: _Programme,
    which: dict[str, Integers],
    knocked: Integers,
    sizes: Floats,
    truth: dict[str, Floats],
) -> AnnData:
    import anndata

    names = np.array(list(map(str, genes)), dtype=object)
    regulators = names[programme.regulators]
    words = {"cell_type": "type", "donor": "donor", "batch": "batch"}
    called = {name: [f"{words[name]} {n}" for n in range(len(truth[name]))] for name in words}
    conditions = [CONTROL if n < 0 else f"{regulators[n]}+{CONTROL}" for n in knocked]
    obs = pd.DataFrame(
        {name: pd.Categorical(np.array(called[name])[which[name]]) for name in words}
        | {"condition": pd.Categorical(conditions), "depth": sizes},
        index=[f"cell {number}" for number in range(len(sizes))],
    )
    var = pd.DataFrame(
        {"regulator": np.isin(np.arange(len(names)), programme.regulators)}, index=names
    )
    found = {}
    for gene, own, weights in zip(regulators, programme.regulators, programme.weights, strict=True):
        targets = np.flatnonzero(weights)
        targets = targets[targets != own]
        found[str(gene)] = {"targets": names[targets], "weights": weights[targets]}
    changed = truth["knockdowns"]
    result = anndata.AnnData(counts, obs=obs, var=var)
    result.uns["truth"] = {
        "regulators": found,
        "types": dict(zip(called["cell_type"], truth["cell_type"], strict=True)),
        "batches": dict(zip(called["batch"], truth["batch"], strict=True)),
        "donors": dict(zip(called["donor"], truth["donor"], strict=True)),
        "knockdowns": dict(zip(map(str, regulators[: len(changed)]), changed, strict=True)),
    }
    return result
