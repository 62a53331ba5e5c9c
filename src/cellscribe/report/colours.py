"""Colours of cells on the map, chosen so that colour-blind readers can distinguish them too.

Colours can distinguish about twenty classes; numbers on the map and in the legend repeat the
information, because no palette of that size is safe by colour alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cellscribe.errors import InputError
from cellscribe.report.umap import EXTRA

# The first six are those of Okabe & Ito (2008). The rest was found by search: largest least OKLab
# distance to all others in normal vision and in simulated protan-, deuter- and tritanopia (Machado
# et al. 2009), among colours that stand out from the white and from the dark page.
PALETTE = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#90004e", "#6f169b",
    "#9b59de", "#905959", "#37de85", "#b12c90", "#6f3700", "#164e64", "#4e43c8", "#c8212c",
    "#90b17a", "#8590ff", "#f4b1c8", "#59640b",
)  # fmt: skip
FOLDED = "#9aa3ab"
"""Colour of all classes beyond the palette."""
UNLABELLED = "#6f7882"
NO_LABEL = frozenset({"", "nan", "NaN", "<NA>", "None"})
DEPTH_STEPS = 32


@dataclass(frozen=True, kw_only=True)
class Colouring:
    """The colour of each cell.

    Attributes
    ----------
    codes
        ``[n]`` place of each cell's colour in `colours`.
    colours
        Colours as ``#rrggbb``.
    names, counts
        For classes: name and number of cells of each colour. Empty when `colours` is a scale.
    n_tagged
        Number of classes, the first ones, that are neither folded nor unlabelled.
    """

    codes: npt.NDArray[np.int64]
    colours: tuple[str, ...]
    names: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    n_tagged: int = 0


def colour_by_label(labels: Sequence[str]) -> Colouring:
    """Give the commonest classes a colour each; the others share one, unlabelled cells another."""
    clean = [None if label is None or str(label) in NO_LABEL else str(label) for label in labels]
    sizes = Counter(label for label in clean if label is not None)
    ranked = sorted(sizes, key=lambda name: (-sizes[name], name))
    # one class too many is not worth folding into a class of its own
    kept, folded = ranked[: len(PALETTE)], ranked[len(PALETTE) :]
    place = {name: code for code, name in enumerate(kept)}
    names, colours = list(kept), list(PALETTE[: len(kept)])
    if folded:
        place |= dict.fromkeys(folded, len(names))
        names.append(f"{len(folded)} other {'class' if len(folded) == 1 else 'classes'}")
        colours.append(FOLDED)
    if None in clean:
        names.append("no label")
        colours.append(UNLABELLED)
    codes = np.array([len(names) - 1 if c is None else place[c] for c in clean], dtype=np.int64)
    counts = np.bincount(codes, minlength=len(names))
    return Colouring(
        codes=codes,
        colours=tuple(colours),
        names=tuple(names),
        counts=tuple(int(n) for n in counts),
        n_tagged=len(kept),
    )


def colour_by_depth(umis: npt.NDArray) -> Colouring:
    """Colour by log10 of each cell's UMIs (0 counted as 1) on a scale that suits both themes."""
    depth = np.log10(np.maximum(np.asarray(umis, dtype=np.float64), 1))
    span = float(np.ptp(depth)) if len(depth) else 0.0
    low = depth.min() if len(depth) else 0.0
    return colour_by_share((depth - low) / span if span > 0 else np.zeros(len(depth)))


def colour_by_share(shares: npt.NDArray) -> Colouring:
    """Colour by a share from 0 to 1 on a scale that suits both themes."""
    try:
        from matplotlib import colormaps
        from matplotlib.colors import to_hex
    except ModuleNotFoundError as error:
        raise InputError(f"the figures need {error.name}; {EXTRA}") from None
    # the scale's yellow end fades on white, its darkest on black
    colours = tuple(to_hex(c) for c in colormaps["viridis"](np.linspace(0.12, 0.92, DEPTH_STEPS)))
    codes = np.clip((np.asarray(shares) * DEPTH_STEPS).astype(np.int64), 0, DEPTH_STEPS - 1)
    return Colouring(codes=codes, colours=colours)
