"""Open a SOMA experiment in the layout of the Census; retry when the network fails.

A Census is a SOMA collection whose ``census_data/<organism>`` are experiments; each has a data
frame ``obs`` and, under ``ms["RNA"]``, a data frame ``var`` and the raw counts ``X["raw"]`` (cells
x genes, sparse). tiledbsoma and cellxgene-census are optional and imported when first needed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from cellscribe.callbacks import Log
from cellscribe.config import DATASET, SOMA_ID
from cellscribe.errors import InputError

T = TypeVar("T")

CONFIG = {"soma.init_buffer_bytes": 1 << 26, "sm.enable_signal_handlers": "false"}
"""Settings of TileDB: 64 MiB of buffer per column (default 1 GiB), Ctrl-C left to Python."""
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
"""Seconds before the next try; doubled each time, up to the second number."""


class SourceError(InputError):
    """An error in the data of the source: reading again would not help."""


@dataclass(frozen=True)
class Source:
    """An opened experiment.

    Attributes
    ----------
    version
        Build date of a published Census, None for any other store.
    uri
        Address of the store.
    experiment, obs
        The SOMA objects.
    organism
        Name of the organism; None for a single experiment, which does not name it.
    dataset
        Column of `obs` with each cell's dataset; None if all cells are one.
    """

    version: str | None
    uri: str
    experiment: Any
    obs: Any
    organism: str | None
    dataset: str | None = DATASET

    @property
    def stem(self) -> str:
        """Name of the only dataset, after the address."""
        return re.sub(r"[^\w.+-]+", "_", self.uri.rstrip("/").rpartition("/")[2]) or "cells"


@dataclass(frozen=True)
class Matrix:
    """Raw counts, the ids of their columns ``[G]`` in ascending order, and the genes."""

    raw: Any
    gene_ids: np.ndarray
    var: pd.DataFrame


def extra(name: str) -> Any:
    """Import an optional package."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise InputError(
            'the Census needs cellxgene-census: pip install "cellscribe[census]"'
        ) from error


def retry(action: Callable[[], T], what: str, retries: int, log: Log) -> T:
    """Call a function that uses the network; after an error wait and try again.

    Raises
    ------
    InputError
        It failed `retries` + 1 times.
    """
    # TileDB reports most of its own faults as RuntimeError
    faults = (extra("tiledbsoma").SOMAError, RuntimeError, OSError)
    for attempt in range(retries + 1):
        try:
            return action()
        except faults as error:
            if attempt == retries:
                raise InputError(
                    f"{what} cannot be read ({reason(error)}), tried {attempt + 1} times; check "
                    "the address and the network, then give the same command again"
                ) from error
            wait = min(FIRST_WAIT * 2**attempt, LONGEST_WAIT)
            log(
                f"{what} cannot be read ({reason(error)}); "
                f"trying again in {wait:g} s ({attempt + 1} of {retries})"
            )
            time.sleep(wait)
    raise AssertionError("retries is negative")


def reason(error: BaseException) -> str:
    """Return one line of an error; tiledbsoma adds a stack trace to its own."""
    text = str(error).partition("\n\nAt:")[0].removeprefix("SOMAError: ")
    return " ".join(text.split()) or type(error).__name__


@contextmanager
def opened(
    uri: str | None,
    version: str,
    organism: str,
    retries: int,
    log: Log,
    *,
    dataset: str | None = DATASET,
) -> Iterator[Source]:
    """Open one organism of a Census, or a single experiment.

    Parameters
    ----------
    uri
        Address or path of a SOMA collection or experiment; None for the published Census.
    version
        Version of the published Census: a build date, "stable" or "latest".
    organism
        Name of the organism, such as "Homo sapiens".
    dataset
        Column of obs with each cell's dataset; None to take all cells as one.

    Raises
    ------
    InputError
        There is no store at that address, of that version or of that organism.
    """
    where = f"Census {version}" if uri is None else uri

    def open_top() -> tuple[str | None, Any]:
        return _open_version(version) if uri is None else (None, _open_uri(uri))

    build, top = retry(open_top, where, retries, log)
    with top:

        def descend() -> tuple[Any, Any, str | None]:
            experiment, known = _experiment(top, organism, where)
            return experiment, _member(experiment, "obs", where), known

        experiment, obs, known = retry(descend, where, retries, log)
        yield Source(build, str(top.uri), experiment, obs, known, dataset)


def _open_version(version: str) -> tuple[str, Any]:
    """Open a published Census; return its build date first, because names like stable move."""
    package = extra("cellxgene_census")
    directory = package.get_census_version_directory(retracted=None)
    if version not in directory:
        lasting = [name for name, about in directory.items() if about.get("flags", {}).get("lts")]
        raise InputError(
            f"there is no Census version {version!r}; there are {', '.join(lasting or directory)}"
        )
    build = str(directory[version]["release_build"])
    return build, package.open_soma(census_version=version, tiledb_config=CONFIG)


def _open_uri(uri: str) -> Any:
    soma = extra("tiledbsoma")
    context = soma.SOMATileDBContext(tiledb_config=CONFIG)
    give = "give the address of a Census or of a SOMA experiment with --uri"
    try:
        return soma.open(uri, context=context)
    except soma.DoesNotExistError as error:
        raise InputError(f"{uri}: there is no SOMA collection; {give}") from error
    except RuntimeError as error:
        if "Unsupported URI scheme" in str(error):
            raise InputError(f"{uri}: not an address that TileDB knows; {give}") from error
        raise


def _experiment(top: Any, organism: str, where: str) -> tuple[Any, str | None]:
    if top.soma_type == "SOMAExperiment":
        return top, None
    if top.soma_type != "SOMACollection":
        raise InputError(
            f"{where} is a {top.soma_type}; give the address of a Census or of a SOMA experiment"
        )
    data = top.get("census_data", top)
    key = "_".join(organism.lower().split())
    if key not in data:
        there = ", ".join(sorted(data)) or "nothing"
        raise InputError(f"{where} holds no organism {organism!r} ({key}); there are {there}")
    return data[key], organism


def _member(collection: Any, key: str, where: str, flag: str = "") -> Any:
    if key not in collection:
        there = ", ".join(sorted(collection)) or "nothing"
        what = f"; name another with {flag}" if flag else ", as a Census experiment has"
        raise InputError(f"{where} has no {key!r}{what}; there are {there}")
    return collection[key]


def _layer(layers: Any, wanted: str | None, where: str) -> Any:
    """Choose the sparse matrix with the raw counts."""
    there = sorted(layers)
    name = wanted or ("raw" if "raw" in there else there[0] if len(there) == 1 else "")
    if name not in there:
        what = f"has no layer {name!r}" if name else "has several layers"
        raise InputError(
            f"{where}: X {what}; name the one with raw counts with --x-layer: "
            f"{', '.join(there) or 'there is none'}"
        )
    if layers[name].soma_type != "SOMASparseNDArray":
        raise InputError(
            f"{where}: layer {name!r} of X is a {layers[name].soma_type}; write it as sparse "
            "(scipy.sparse.csr_matrix(adata.X)) with tiledbsoma.io.from_anndata"
        )
    return layers[name]


def open_matrix(
    source: Source,
    measurement: str = "RNA",
    x_layer: str | None = None,
    gene_column: str | None = None,
) -> Matrix:
    """Open the raw counts and read the table of genes.

    Parameters
    ----------
    source
        The experiment.
    measurement
        Its measurement with the genes.
    x_layer
        Layer of X; "raw", or the only one, if not given.
    gene_column
        Column of var with the genes' names; "feature_id", or else "var_id" (which
        ``tiledbsoma.io.from_anndata`` makes of var_names), if not given.

    Raises
    ------
    InputError
        The experiment has no such measurement, layer or column, or leaves a choice of layers.
    """
    where = source.uri
    element = _member(_member(source.experiment, "ms", where), measurement, where, "--measurement")
    raw = _layer(_member(element, "X", where), x_layer, where)
    table = _member(element, "var", where)
    there = list(table.keys())
    found = gene_column or next((name for name in ("feature_id", "var_id") if name in there), "")
    if found not in there:
        raise InputError(
            f"{where}: var has no column {found or 'feature_id'!r} (Ensembl ids or symbols); name "
            f"one with --gene-column: {', '.join(there)}"
        )
    names = [name for name in ("feature_name", "feature_length") if name in there and name != found]
    genes = table.read(column_names=[SOMA_ID, found, *names]).concat().to_pandas()
    genes = genes.sort_values(SOMA_ID)
    var = genes[[found, *names]].set_index(found).rename_axis(None)
    var.index = var.index.astype(str)
    return Matrix(raw, genes[SOMA_ID].to_numpy(), var)


def columns_missing(source: Source, wanted: Mapping[str, str]) -> None:
    """Check that `obs` has the columns `wanted`, which maps each to the fix.

    Raises
    ------
    InputError
        A column is missing; the message lists those that exist.
    """
    there = source.obs.schema.names
    for name, fix in wanted.items():
        if name not in there:
            raise InputError(
                f"{source.uri}: obs has no column {name!r}; {fix}; there are {', '.join(there)}"
            )


def address(uri: str | None) -> str | None:
    """Make a path absolute, so that a download can be continued from another folder."""
    if uri is None or "://" in uri or not uri:
        return uri
    return str(Path(uri).resolve())
