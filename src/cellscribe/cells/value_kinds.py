"""What the values of a matrix are: counts, fractional counts, normalised values or logarithms.

Values that are no whole numbers may be counts after a correction (SoupX, DecontX, CellBender) or an
estimate (alevin, RSEM, STARsolo's EM), which rank as they are, or values that were normalised. The
rules, in this order, each over the cells of a sample:

1. Counts leave their lattice in what is made of them. If most cells' values, put back by exp - 1,
   2^x - 1, 10^x - 1 or the square, are multiples of one step, they were counts before. If they are
   multiples as they stand, they were divided by each cell's total; but a step that is a simple part
   of 1 (a half, a third, a hundredth) is what shared reads give, and no sign.
2. Totals that are equal in all cells are a normalisation (counts per million, TPM), of the values
   or, if the totals after exp - 1 and the like are equal, before a logarithm.
3. Without whole numbers to speak of: values below `LOG_CEILING` are logarithms of something that
   had no lattice, and totals that hardly differ are normalised values that lack some genes.

What they cannot tell: TPM of a small part of the genes looks like fractional counts, and corrected
counts of shallow cells, all values below `LOG_CEILING` and none whole, look like logarithms.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Kind = Literal["counts", "fractional", "normalised", "logarithms", "roots"]
Values = npt.NDArray[np.float64]

LOG_CEILING = 25
"""Logarithms of counts are smaller, normalised counts are not."""
MOST_CELLS = 256
"""Cells of a block that are looked at."""
PARTS = np.arange(1, 13)
"""Counts that a cell's smallest may have been, with no 1 among them."""
FEWEST_STEPS, MOST_STEPS = 5, 48
"""Distinct multiples that a cell must show before its lattice says anything, and that are tried."""
LARGEST_STEP = 64
"""Multiples beyond are passed over: rounding of float32 reaches the tolerance there."""
TOLERANCE = 0.01
"""Distance from a whole number that still counts as one."""
LATTICE = 0.5
"""Share of the telling cells whose values are a lattice, from which the matrix is one."""
FEWEST_TOTALS = 4
"""Cells whose totals are compared, at least."""
EQUAL = 1e-3
"""Relative spread of totals that are equal."""
NEARLY_EQUAL = 0.1
"""Relative spread of totals of normalised values without some of the genes."""
WHOLE = 0.1
"""Share of whole numbers below which they are there by chance."""

BACK: dict[str, tuple[Kind, Callable[[Values], Values]]] = {
    "exp": ("logarithms", np.expm1),
    "2^": ("logarithms", lambda x: np.expm1(x * np.log(2))),
    "10^": ("logarithms", lambda x: np.expm1(x * np.log(10))),
    "square": ("roots", np.square),
}
"""What undoes a transform, by name."""
SENTENCES: dict[Kind, str] = {
    "fractional": "fractional counts, it seems",
    "normalised": "normalised values, it seems",
    "logarithms": "log-normalised values, it seems",
    "roots": "square roots of counts, it seems",
}


@dataclass(frozen=True)
class Sample:
    """Non-zero values of some cells.

    Attributes
    ----------
    cells
        The values of each cell, none of them empty.
    """

    cells: list[Values]

    @property
    def values(self) -> Values:
        """All values together."""
        return np.concatenate(self.cells) if self.cells else np.empty(0)


def sample_cells(
    indptr: npt.NDArray[Any], data: npt.NDArray[Any], most: int = MOST_CELLS
) -> Sample:
    """Take the non-zero values of at most `most` cells of a CSR block, evenly spaced."""
    n_cells = len(indptr) - 1
    rows = np.unique(np.linspace(0, n_cells - 1, min(n_cells, most)).astype(int)) if n_cells else ()
    cells = []
    for row in rows:
        values = np.asarray(data[indptr[row] : indptr[row + 1]], dtype=np.float64)
        values = values[values != 0]
        if len(values):
            cells.append(values)
    return Sample(cells)


def tell_kind(sample: Sample, *, whole_sample: bool = True) -> Kind:
    """Tell what non-negative, finite values are.

    Parameters
    ----------
    sample
        Cells from all over the matrix, or of one block.
    whole_sample
        Use the third rule too, which needs cells from all over the matrix to be right.
    """
    values = sample.values
    is_whole = values == np.floor(values)
    if is_whole.all():
        return "counts"
    # A power of values beyond is no count, and none that matters is close to the overflow.
    if values.max() < LOG_CEILING:
        for kind, back in (BACK["exp"], BACK["2^"], BACK["10^"]):
            if _was_lattice(sample, back) or _spread(sample, back) < EQUAL:
                return kind
    kind, back = BACK["square"]
    if _was_lattice(sample, back):
        return kind
    if _is_lattice(sample) or _spread(sample) < EQUAL:
        return "normalised"
    if whole_sample and is_whole.mean() < WHOLE:
        if values.max() < LOG_CEILING:
            return "logarithms"
        if _spread(sample) < NEARLY_EQUAL:
            return "normalised"
    return "fractional"


def _spread(sample: Sample, back: Callable[[Values], Values] | None = None) -> float:
    """Relative spread of the totals of cells, infinite for too few of them."""
    if len(sample.cells) < FEWEST_TOTALS:
        return np.inf
    totals = np.array([(cell if back is None else back(cell)).sum() for cell in sample.cells])
    return float(totals.std() / totals.mean())


def _was_lattice(sample: Sample, back: Callable[[Values], Values]) -> bool:
    """Whether values that are not whole are multiples of a step when put back, and only then."""
    told = [cell[cell != np.floor(cell)] for cell in sample.cells]
    found = []
    for part, cell in zip(told, sample.cells, strict=True):
        step = _step(back(part), float(back(cell.min()))) if len(part) else None
        if step is not None:
            # squares of multiples are multiples too
            found.append(step > 0 and not _step(part, part.min()))
    return bool(found) and bool(np.mean(found) >= LATTICE)


def _is_lattice(sample: Sample) -> bool:
    """Whether most cells' values are multiples of a step that is no simple part of 1."""
    cells = [cell for cell in sample.cells if (cell != np.floor(cell)).any()]
    steps = [step for cell in cells if (step := _step(cell, cell.min())) is not None]
    found = [step > 0 and not _is_simple_part(step) for step in steps]
    return bool(found) and bool(np.mean(found) >= LATTICE)


def _step(values: Values, smallest: float) -> float | None:
    """Step that values are whole multiples of: 0 if there is none, None if they are too few."""
    steps = values / smallest
    steps = np.unique(np.round(steps[steps < LARGEST_STEP], 4))[:MOST_STEPS]
    steps = steps[steps > 1 + TOLERANCE]
    if len(np.unique(np.round(steps))) < FEWEST_STEPS:
        return None
    many = np.outer(PARTS, steps)
    fits = (np.abs(many - np.round(many)) < TOLERANCE).mean(axis=1) > 0.98
    return float(smallest / PARTS[int(fits.argmax())]) if fits.any() else 0.0


def _is_simple_part(step: float) -> bool:
    """Whether 1 is a multiple of a step."""
    parts = 1 / step
    return parts > 0.5 and bool(abs(parts - round(parts)) < 1e-4 * parts)
