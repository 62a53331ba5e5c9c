"""Perturbation of each cell, read from the labels of a screen.

Screens write labels in several ways: GEARS "GENE+ctrl", "A+B" and "ctrl", scPerturb "GENE", "A_B"
and "control", others "GENE" and "non-targeting", "NT" or "NTg4". All are read as "ctrl", "A" and
"A+B" (genes in alphabetical order). A column that is found by its name is only taken if its labels
look like a screen's, since "condition" may also mean a disease.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cellscribe.cells.columns import NO_LABEL_WORDS
from cellscribe.evaluation.data import Cells, column
from cellscribe.evaluation.scores import UnfitError

if TYPE_CHECKING:
    from cellscribe.config import EvaluateOptions

CONTROL = "ctrl"
COLUMNS = ("condition", "perturbation", "guide_target", "target_gene", "gene")
"""Columns of obs to look at, in this order, if the user names none."""
MIN_CELLS = 20
"""Fewest cells of a perturbation; the profile of fewer is mostly noise."""
MIN_PERTURBATIONS = 3

_CONTROL = re.compile(
    r"(?:(?:neg(?:ative)?[-_ .]?)?(?:ctrl|control)|non[-_ .]?target(?:ing)?|nt|scramble[d]?)s?"
    r"(?:[-_ .]?(?:g|sg|guide)?[-_ .]?\d+)?",
    re.IGNORECASE,
)
"""Labels of controls, with or without the number of a guide; NT5E and other genes do not match."""
_NOT_PERTURBED = frozenset({*NO_LABEL_WORDS, "*", "multiple"})
"""Labels that name no perturbation, in lower case."""
_JOINTS = ("_", ",", ";", "|", "&")
"""Separators of a combination's genes, if both sides are genes; "+" always is one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Conditions:
    """Perturbation of each cell."""

    column: str
    """Column of obs with the labels."""
    names: npt.NDArray[np.object_]
    """``[B]`` "ctrl", "A", "A+B"; "" for a cell without a label, or with too rare a one."""
    targets: dict[str, tuple[str, ...]]
    """Perturbation -> its genes as the file writes them; without controls."""
    is_control: npt.NDArray[np.bool_]
    """``[B]``."""

    def rows(self, name: str) -> npt.NDArray[np.int64]:
        """Return the cells of one condition."""
        return np.flatnonzero(self.names == name)


def read_conditions(
    cells: Cells, options: EvaluateOptions, *, min_cells: int = MIN_CELLS
) -> Conditions:
    """Read the perturbation of every cell.

    Perturbations of fewer than `min_cells` cells count as unlabelled.

    Raises
    ------
    UnfitError
        There is no column of perturbations, fewer than `MIN_PERTURBATIONS` of them have
        `min_cells` cells, or fewer than `min_cells` cells are controls.
    """
    key = _key(cells, options.condition)
    labels = column(cells, key, "--condition")
    read = {label: targets_of(label) for label in np.unique(labels.astype(str))}
    all_names = np.array([_name(read[label]) for label in labels], dtype=object)
    n_control = int((all_names == CONTROL).sum())
    if n_control < min_cells:
        said = f"has {n_control}" if n_control else "has no"
        raise UnfitError(
            f"{cells.name}: obs column {key!r} {said} controls (ctrl, control, non-targeting, NT), "
            f"and at least {min_cells} are needed; rename theirs, or name another column with "
            "--condition"
        )
    sizes = Counter(all_names)
    enough = {name for name, size in sizes.items() if name and size >= min_cells}
    names = np.array([name if name in enough else "" for name in all_names], dtype=object)
    found = {_name(each): each for each in read.values() if each and _name(each) in enough}
    if len(found) < MIN_PERTURBATIONS:
        raise UnfitError(
            f"{cells.name}: {len(found)} perturbations in obs column {key!r} have {min_cells} "
            f"cells or more, and {MIN_PERTURBATIONS} are needed; look at "
            "more cells with --max-cells"
        )
    return Conditions(
        column=key,
        names=names,
        targets={name: found[name] for name in sorted(found)},
        is_control=np.asarray(names == CONTROL, dtype=np.bool_),
    )


def targets_of(label: str) -> tuple[str, ...] | None:
    """Return the genes of a label, in alphabetical order; () for a control, None for no label.

    A guide's name after a gene ("SPI1_pDS255") is dropped: it is not a gene itself.
    """
    label = label.strip()
    if label.lower() in _NOT_PERTURBED:
        return None
    genes: list[str] = []
    for part in label.split("+"):
        part = part.strip()
        if part and not _CONTROL.fullmatch(part):
            genes += _genes_in(part)
    return tuple(sorted(set(genes)))


def _genes_in(part: str) -> Sequence[str]:
    """Split a part of a label that has no "+" into genes; unknown names stay whole."""
    if _is_gene(part):
        return (part,)
    for joint in _JOINTS:
        first, *rest = (each.strip() for each in part.split(joint))
        if not rest or not (_is_gene(first) or _CONTROL.fullmatch(first)):
            continue
        return [each for each in (first, *rest) if _is_gene(each)]
    return (part,)


def _is_gene(name: str) -> bool:
    from cellscribe.cells.gene_names.genes import resolve

    return bool(resolve([name])[0])


def _name(targets: tuple[str, ...] | None) -> str:
    if targets is None:
        return ""
    return "+".join(targets) or CONTROL


def _key(cells: Cells, named: str | None) -> str:
    """Choose the column of perturbations."""
    if named is not None:
        if named in cells.obs:
            return named
        there = ", ".join(map(str, cells.obs.columns[:8])) or "none"
        raise UnfitError(f"{cells.name}: obs has no column {named!r} (--condition); it has {there}")
    for key in COLUMNS:
        if key in cells.obs and _looks_like_a_screen(column(cells, key, "--condition")):
            return key
    raise UnfitError(
        f"{cells.name}: no column of obs tells perturbations (looked for {', '.join(COLUMNS)}); "
        "name it with --condition"
    )


def _looks_like_a_screen(labels: Iterable[str]) -> bool:
    """Check that two labels or more, and most of those that are no controls, name human genes."""
    found = [targets for label in set(labels) if (targets := targets_of(label))]
    genes = [all(map(_is_gene, targets)) for targets in found]
    return sum(genes) > max(1, len(found) / 2)


def target_columns(cells: Cells, labels: Iterable[str]) -> dict[str, int | None]:
    """Find the column of each target gene's counts; None where it is not measured.

    A label is looked for as it is written in the names of the file's columns and in the text
    columns of var, then as the Ensembl id that it and they stand for. The first column wins.
    """
    from cellscribe.cells.gene_names.features import not_genes
    from cellscribe.cells.gene_names.genes import candidate_columns, resolve
    from cellscribe.cells.gene_names.symbols import as_text

    spelled: dict[str, int] = {}
    meant: dict[str, int] = {}
    # an antibody or a guide may have the name of its gene
    others = not_genes(cells.var)
    for names in candidate_columns(cells.var, cells.gene_key, cells.name).values():
        texts = [as_text(name) for name in names]
        for place, (text, gene) in enumerate(zip(texts, resolve(texts), strict=True)):
            if not others[place]:
                spelled.setdefault(text, place)
                meant.setdefault(gene, place)
    meant.pop("", None)
    labels = list(labels)
    genes = resolve(labels)
    return {
        label: spelled[label] if label in spelled else meant.get(gene)
        for label, gene in zip(labels, genes, strict=True)
    }
