"""Open a SOMA experiment in the layout of the Census; retry when the network fails.

A Census is a SOMA collection whose ``census_data/<organism>`` are experiments; each has a data
frame ``obs`` and, under ``ms["RNA"]``, a data frame ``var`` and the raw counts ``X["raw"]`` (cells
x genes, sparse). tiledbsoma and cellxgene-census are optional and imported when first needed.
"""

from __future__ import annotations

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
from cellscribe.config import SOMA_ID
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
    """

    version: str | None
    uri: str
    experiment: Any
    obs: Any
    organism: str | None


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
    uri: str | None, version: str, organism: str, retries: int, log: Log
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
        yield Source(build, str(top.uri), experiment, obs, known)


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


def _member(collection: Any, key: str, where: str) -> Any:
    if key not in collection:
        there = ", ".join(sorted(collection)) or "nothing"
        raise InputError(f"{where} has no {key!r}, as a Census experiment has; there are {there}")
    return collection[key]


def open_matrix(source: Source) -> Matrix:
    """Open the raw counts and read the table of genes.

    Raises
    ------
    InputError
        The experiment does not have the layout of the Census.
    """
    element = source.experiment
    for key in ("ms", "RNA"):
        element = _member(element, key, source.uri)
    raw = _member(_member(element, "X", source.uri), "raw", source.uri)
    table = _member(element, "var", source.uri)
    names = [name for name in ("feature_name", "feature_length") if name in table.keys()]  # noqa: SIM118
    if "feature_id" not in table.keys():  # noqa: SIM118
        raise InputError(
            f"{source.uri}: var has no column 'feature_id' (Ensembl ids); "
            f"there are {', '.join(table.keys())}"
        )
    genes = table.read(column_names=[SOMA_ID, "feature_id", *names]).concat().to_pandas()
    genes = genes.sort_values(SOMA_ID)
    var = genes[["feature_id", *names]].set_index("feature_id").rename_axis(None)
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
