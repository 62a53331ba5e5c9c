"""Containers of several AnnData: MuData (.h5mu, .zarr) and SpatialData (.zarr).

One of them holds the counts of genes. Of a MuData that is the modality whose name, or whose
features' types, say gene expression; of a SpatialData the one table. Where that leaves a choice,
the user makes it (``--modality``, ``--table``), and the refusal names what there is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellscribe.cells.gene_names.features import names_genes
from cellscribe.cells.readers import anndata_files
from cellscribe.cells.readers.anndata_files import Source
from cellscribe.cells.readers.frames import stored_frame, text
from cellscribe.cells.readers.storage import is_group, member
from cellscribe.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

TYPES = ("feature_types", "feature_type", "modality")
"""Columns of var that say what a feature is."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the user names of a container of several."""

    modality: str | None = None
    table: str | None = None

    def check(self, source: Source) -> None:
        """Refuse a name where there is nothing to choose.

        Raises
        ------
        InputError
            The input is no MuData, or no SpatialData.
        """
        for flag, form in (("modality", "MuData"), ("table", "SpatialData")):
            name = getattr(self, flag)
            if name is not None and not source.part.startswith(PREFIX[flag]):
                raise InputError(
                    f"{source.name} is no {form}, so --{flag} {name} names nothing in it; leave "
                    "it out"
                )


PREFIX = {"modality": ("mod/", "ms/"), "table": ("tables/",)}
"""Where parts lie: in MuData, in SOMA, in SpatialData."""


def open_part(root: Any, path: Path | str, form: str, wanted: Wanted) -> Source | None:
    """Open the AnnData with the genes of a MuData or SpatialData; None if it is neither.

    Parameters
    ----------
    root
        Root group, of h5py or zarr.
    path
        File or folder, or a URL.
    form
        "h5ad" or "zarr": how it is stored.
    wanted
        What the user named.

    Raises
    ------
    InputError
        It leaves a choice, or has nothing of the name that is wanted.
    """
    keys, name = set(root), str(path)
    if "mod" in keys and is_group(root["mod"]):
        group = root["mod"]
        key = _modality(group, name, wanted.modality)
        source = _part(group, key, path, f"{form}-mudata", "mod/")
        return replace(source, obs=_joint_obs(root, source.obs, name), obs_rows=None)
    if {"obs", "var"} <= keys:
        return None
    for tables in ("tables", "table"):
        if tables in keys and is_group(root[tables]) and _parts(root[tables]):
            group = root[tables]
            key = _choose(_parts(group), wanted.table, name, "table", "SpatialData")
            return _part(group, key, path, f"{form}-spatialdata", "tables/")
    return None


def _part(group: Any, key: str, path: Path | str, form: str, prefix: str) -> Source:
    source = anndata_files.anndata_store(group[key], path=path, form=form)
    return replace(source, part=f"{prefix}{key}/")


def _parts(group: Any) -> list[str]:
    """Names of the AnnData in a group."""
    return sorted(
        key for key in group if is_group(group[key]) and {"obs", "var"} <= set(group[key])
    )


def _modality(group: Any, name: str, wanted: str | None) -> str:
    """Choose the modality whose features are genes."""
    there = _parts(group)
    found = there
    if wanted is None and len(there) > 1:
        for says in (names_genes, lambda key: _has_genes(group[key], f"{name}: mod/{key}/var")):
            found = [key for key in there if says(key)]
            if len(found) == 1:
                break
        else:
            found = there
    return _choose(found, wanted, name, "modality", "MuData", there)


def choose_measurement(there: list[str], name: str, wanted: str | None) -> str:
    """Choose the measurement of a SOMA experiment whose features are genes.

    Raises
    ------
    InputError
        The names leave a choice, or there is none of the name that is wanted.
    """
    genes = [key for key in there if names_genes(key)]
    found = genes if len(genes) == 1 and wanted is None else there
    return _choose(found, wanted, name, "modality", "SOMA experiment", there)


def _has_genes(part: Any, where: str) -> bool:
    """Whether the types of features say gene expression, of all of them."""
    var = stored_frame(member(part, "var", where), where)
    return any(
        all(names_genes(text(word)) for word in var[key].unique()) for key in TYPES if key in var
    )


def _choose(
    found: list[str],
    wanted: str | None,
    name: str,
    flag: str,
    form: str,
    there: list[str] | None = None,
) -> str:
    there = there or found
    listed = ", ".join(there)
    if wanted is not None:
        if wanted not in there:
            raise InputError(f"{name} has no {flag} {wanted!r}; there are {listed or 'none'}")
        return wanted
    if len(found) != 1:
        which = (
            f"name the one with the counts of genes: --{flag} {there[0]}"
            if there
            else ("give a file that has cells")
        )
        raise InputError(f"{name}: {form} with {listed or 'nothing in it'}; {which}")
    return found[0]


def _joint_obs(root: Any, own: Callable[[], pd.DataFrame], name: str) -> Callable[[], pd.DataFrame]:
    """Read the cells of a modality, and of all modalities' columns those that it lacks."""

    def read() -> pd.DataFrame:
        obs = own()
        if "obs" not in root:
            return obs
        joint = stored_frame(member(root, "obs", name), f"{name}: obs")
        if not (joint.index.is_unique and set(obs.index) <= set(joint.index)):
            return obs
        more = [column for column in joint if ":" not in str(column) and column not in obs]
        return obs.join(joint[more])

    return read
