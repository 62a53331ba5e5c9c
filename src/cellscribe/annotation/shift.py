"""Whether cells lie outside the reference that gives them their labels, before any label is read.

Two figures. The share of cells that lie farther from their nearest type than `INSIDE` of the
reference's own held-out cells do; and how many times as far as those they lie, type by type, so
that a file with other shares of the same types does not count as far. Both are compared with what
the held-out groups (donors, batches) of the reference themselves show.

What this cannot see: cells that are far from their own type and as near to another one as its own
cells are. What it does not need: labels of the cells.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cellscribe.annotation.domain import INSIDE, Domain

FEWEST = 5
"""Held-out cells of a type that a comparison needs."""
WIDE = 1.1
"""Ratio of distances below which a difference, however sure, is too small to tell of."""
FAR = 2.0
"""Ratio of distances from which on cells are called outside."""
ERRORS = 2.0
"""Standard errors by which a share has to exceed what held-out groups show."""

Verdict = Literal["inside", "shifted", "outside"]
Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.integer]


@dataclass(frozen=True, kw_only=True)
class Shift:
    """How cells lie next to a reference; from `measure_shift`."""

    cells: int
    far: float
    """Share of cells that lie farther than `INSIDE` of the held-out cells."""
    most_far: float
    """Largest such share of a held-out group."""
    ratio: float
    """Distance in units of that of held-out cells near the same type, median."""
    most_ratio: float
    """Largest such ratio of a held-out group."""
    verdict: Verdict
    grouped: bool
    """Whether whole groups were held out."""

    def as_json(self) -> dict[str, Any]:
        """Plain values, with the sentence."""
        return {**asdict(self), "sentence": self.sentence()}

    def sentence(self) -> str:
        """One plain sentence for a reader of labels."""
        own = "the groups held out of it" if self.grouped else "its own held-out cells"
        what = (
            f"{self.far:.0%} of the cells lie farther from the labelled types than {INSIDE:.0%} of "
            f"the reference's held-out cells, and {self.ratio:.1f} times as far in the median "
            f"({own}: up to {self.most_far:.0%} and {self.most_ratio:.1f} times)"
        )
        if self.verdict == "inside":
            return f"The cells lie within the reference: {what}."
        if self.verdict == "shifted":
            return (
                f"The cells are shifted against the reference: {what}. Labels are likely to be "
                "less often right than on held-out cells."
            )
        return (
            f"The cells lie outside the reference: {what}. No held-out figure holds for them; "
            "check the labels with marker genes, or take a reference of the same tissue and assay."
        )


def measure_shift(domain: Domain, distance: Floats, nearest: Integers) -> Shift:
    """Compare cells with the held-out cells of a reference.

    Parameters
    ----------
    domain
        Of the reference.
    distance, nearest
        ``[B]`` of the cells, from `Domain.distance`, before any alignment.
    """
    far = float((distance > domain.limit).mean())
    ratio = matched_ratio(distance, nearest, domain.held_out, domain.nearest)
    shares, ratios = [1 - INSIDE], [1.0]
    for fold in np.unique(domain.fold):
        here = domain.fold == fold
        if here.sum() < FEWEST or (~here).sum() < FEWEST:
            continue
        limit = np.quantile(domain.held_out[~here], INSIDE)
        shares.append(float((domain.held_out[here] > limit).mean()))
        ratios.append(
            matched_ratio(
                domain.held_out[here], domain.nearest[here],
                domain.held_out[~here], domain.nearest[~here],
            )
        )  # fmt: skip
    most_far, most_ratio = max(shares), max(ratios)
    # The error of the cells' own share, and of the limit, which held-out cells have set.
    spread = most_far * (1 - most_far)
    error = np.sqrt(spread / len(distance) + spread / len(domain.held_out))
    verdict: Verdict = "inside"
    if far > most_far + ERRORS * error:
        if ratio >= FAR * most_ratio:
            verdict = "outside"
        elif ratio > WIDE * most_ratio or far > 2 * most_far:
            verdict = "shifted"
    return Shift(
        cells=len(distance),
        far=far,
        most_far=most_far,
        ratio=ratio,
        most_ratio=most_ratio,
        verdict=verdict,
        grouped=domain.grouped,
    )


def matched_ratio(
    distance: Floats, nearest: Integers, others: Floats, nearest_others: Integers
) -> float:
    """Median distance over that of others, among cells nearest to the same type.

    Types count by the number of cells; their ratios are averaged as logarithms. Where a type has
    too few cells to compare, all others stand in for its own.
    """
    total = 0.0
    for kind in np.unique(nearest):
        same = others[nearest_others == kind]
        if len(same) < FEWEST:
            same = others
        mine = distance[nearest == kind]
        total += len(mine) * (np.log(np.median(mine)) - np.log(np.median(same)))
    return float(np.exp(total / len(distance)))
