"""Written labels: a table, or columns of a copy of the input's AnnData."""

from __future__ import annotations

import json
import shutil
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from cellscribe.annotation.call_cells import Annotation
from cellscribe.annotation.heads_annotation import HeadsAnnotation
from cellscribe.cells.counts import Counts
from cellscribe.errors import InputError
from cellscribe.escaping import safe_cells
from cellscribe.inference.outputs import (
    keep_facts,
    need_groups,
    sidecar,
    write_cells,
    write_element,
)
from cellscribe.lease import claim
from cellscribe.writing import writing

FORMS = (".csv", ".parquet", ".h5ad")


class Labelling(Protocol):
    """What is written of an annotation, wherever its labels come from."""

    @property
    def about(self) -> dict[str, Any]:
        """Where the labels come from, as plain values."""

    def table(self, names: pd.Index) -> pd.DataFrame:
        """One row a cell, texts as categories."""


@dataclass(frozen=True, kw_only=True)
class Probabilities:
    """Each cell's probability of each label of a column."""

    prefix: str
    """What stands before the names of the column's results, see `HeadsAnnotation`."""
    labels: list[str]
    each: npt.NDArray[np.float32]
    """``[B, C]``."""


def probabilities_of(annotation: Labelling) -> list[Probabilities]:
    """Probabilities of all labels, of each column of labels, where they were asked for."""
    if isinstance(annotation, Annotation):
        columns = {"": annotation}
    elif isinstance(annotation, HeadsAnnotation):
        columns = {
            annotation.prefix(name): each
            for name, each in annotation.columns.items()
            if isinstance(each, Annotation)
        }
    else:
        columns = {}
    return [
        Probabilities(prefix=prefix, labels=column.labels, each=column.each)
        for prefix, column in columns.items()
        if column.each is not None
    ]


def claim_annotated(
    out: Path, sources: list[Path], *, overwrite: bool
) -> AbstractContextManager[None]:
    """Hold an output before anything is opened for it.

    Raises
    ------
    InputError
        Unknown form, or `claim` refuses it.
    """
    if out.suffix not in FORMS:
        raise InputError(f"{out}: end the output's name in one of {', '.join(FORMS)}")
    beside = [] if out.suffix == ".h5ad" else [sidecar(out)]
    return claim(out, sources, overwrite=overwrite, beside=beside)


def write_annotation(out: Path, annotation: Labelling, counts: Counts, key_added: str) -> None:
    """Write the calls as a table, or as columns of a copy of the input's AnnData.

    Probabilities of all labels, where they were asked for, are columns ``probability of LABEL`` of
    a table, and ``obsm[f"{key_added}_probabilities"]`` of an AnnData, whose labels are in
    ``uns["cellscribe"]["annotation"]["labels"]``. Of several columns of labels, the name of each
    and ``_`` stands before these, and its labels are in ``...["heads"][NAME]["labels"]``.

    Raises
    ------
    OutputError
        The disk is full, or the place not writable.
    InputError
        The input is of an AnnData version whose obs cannot be added to.
    """
    table = annotation.table(counts.obs.index)
    if out.suffix == ".h5ad":
        with writing(out) as partial:
            _write_h5ad(partial, table, counts, annotation, key_added)
        return
    table = with_probabilities(table, annotation)
    with writing(out) as partial:
        if out.suffix == ".csv":
            safe_cells(table).to_csv(partial, float_format="%.6g")
        else:
            # The texts, not categories: every reader of Parquet takes them for what they are.
            texts = {name: str for name in table if table[name].dtype == "category"}
            table.astype(texts).reset_index().to_parquet(partial, index=False)
        with writing(sidecar(out)) as note:
            note.write_text(json.dumps(annotation.about, indent=2) + "\n", encoding="utf-8")


def with_probabilities(table: pd.DataFrame, annotation: Labelling) -> pd.DataFrame:
    """Add a column for each label to a table, where the probabilities were asked for."""
    parts = [table]
    for found in probabilities_of(annotation):
        names = [f"{found.prefix}probability of {label}" for label in found.labels]
        parts.append(pd.DataFrame(found.each, index=table.index, columns=pd.Index(names)))
    return pd.concat(parts, axis=1) if len(parts) > 1 else table


def _write_h5ad(
    path: Path, table: pd.DataFrame, counts: Counts, annotation: Labelling, key_added: str
) -> None:
    import h5py

    copied = counts.form == "h5ad" and counts.path is not None
    if copied:
        assert counts.path is not None
        shutil.copyfile(counts.path, path)
    with h5py.File(path, "r+" if copied else "w") as root:
        if not copied:
            write_cells(root, counts)
        need_groups(root, ("obs", "obsm", "uns"), counts.name, ".csv")
        obs = root["obs"]
        order = [str(name) for name in obs.attrs["column-order"]]
        for name in table:
            column, values = f"{key_added}_{name}", table[name]
            if column in obs:
                del obs[column]
            coded = values.dtype == "category"
            write_element(obs, column, values.array if coded else values.to_numpy())
            order = [*(other for other in order if other != column), column]
        obs.attrs.create("column-order", order, dtype=h5py.string_dtype())
        for found in probabilities_of(annotation):
            key = f"{key_added}_{found.prefix}probabilities"
            if key in root["obsm"]:
                del root["obsm"][key]
            write_element(root["obsm"], key, found.each)
        keep_facts(root, "annotation", annotation.about)
