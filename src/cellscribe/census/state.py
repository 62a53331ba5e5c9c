"""The progress of a Census download, stored as ``census.json`` in its folder.

A dataset is listed when its file has been checked and is in place, so a run that is killed at any
moment leaves complete files, a list of them, and at most one temporary file, which the next run
removes. The folder is held during a download (`lease`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypedDict

from cellscribe.callbacks import Log
from cellscribe.census.soma_cells import Extent
from cellscribe.config import CensusOptions
from cellscribe.config.checked import Count, check_value
from cellscribe.config.files import read_json
from cellscribe.errors import InputError
from cellscribe.lease import lease
from cellscribe.writing import disk_errors, remove, write_json

NAME = "census.json"
FORMAT, VERSION = "cellscribe census", 1
FLAGS = {
    "census_version": "--census-version",
    "uri": "--uri",
    "organism": "--organism",
    "filter": "filter",
    "obs": "--obs",
    "measurement": "--measurement",
    "x_layer": "--x-layer",
    "gene_column": "--gene-column",
    "dataset_column": "--dataset-column",
}
NAMES = ("measurement", "x_layer", "gene_column", "dataset_column")
"""Options that name what other stores than the Census call otherwise."""


class KeptDataset(TypedDict):
    """A dataset that is in place."""

    file: str
    bytes: Count
    cells: Count


class Kept(TypedDict):
    """What is read of ``census.json`` besides the identity of the download."""

    format: Literal["cellscribe census"]
    version: Literal[1]
    datasets: dict[str, KeptDataset]
    left_out: dict[str, str]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make and hold the folder, and remove temporary files of a killed download.

    Raises
    ------
    InputError
        `folder` is a file, or another process uses it.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; name a folder for the download")
    if not folder.parent.is_dir():
        raise InputError(f"{folder.parent}: no such folder; make it first")
    made = not folder.exists()
    with disk_errors(folder):
        folder.mkdir(exist_ok=True)
    try:
        with lease(folder):
            with disk_errors(folder):
                for pattern in (".*.h5ad.partial-*", f".{NAME}.partial-*"):
                    for left in folder.glob(pattern):
                        remove(left)
            yield
    finally:
        if made and not any(folder.iterdir()):
            folder.rmdir()


class CensusState:
    """The contents of ``census.json``.

    Attributes
    ----------
    folder, path
        Folder of the download, and path of the list.
    datasets, left_out
        Entries of the list.

    Raises
    ------
    InputError
        The folder holds other files, a damaged list, or a download made with other options.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder, self.path = folder, folder / NAME
        self.identity = dict(identity)
        self.datasets: dict[str, dict[str, Any]] = {}
        self.left_out: dict[str, str] = {}
        if not self.path.exists():
            foreign = next(folder.glob("*.h5ad"), None)
            if foreign is not None:
                raise InputError(
                    f"{foreign} is not of a Census download; name another folder for it"
                )
            return
        kept = self._read()
        # a download of before these names goes on
        kept = {name: getattr(CensusOptions(), name) for name in NAMES} | kept
        for key, value in self.identity.items():
            if kept.get(key) != value and not self._mirror(key):
                raise InputError(
                    f"{folder} holds a download with another {FLAGS[key]} "
                    f"({_word(kept.get(key))}, not {_word(value)}); name another folder, or give "
                    "the options of that download again"
                )
        self.datasets, self.left_out = kept["datasets"], kept["left_out"]

    def begin(self, extents: Mapping[str, Extent]) -> None:
        """Compare with the datasets of the store, and write the list if there is none.

        Raises
        ------
        InputError
            A dataset is no longer in the store.
        """
        gone = sorted({*self.datasets, *self.left_out} - {*extents})
        if gone:
            raise InputError(
                f"{self.folder} holds dataset {gone[0]}, which {self.identity['uri']} no longer "
                "has; name another folder, and the whole of it is read anew"
            )
        if not self.path.exists():
            self._write()

    def _mirror(self, key: str) -> bool:
        """Whether `key` differs only because a published release has another address."""
        return key == "uri" and self.identity["census_version"] is not None

    def _read(self) -> dict[str, Any]:
        fix = "name another folder"
        try:
            kept = read_json(self.path, fix=fix)
            check_value(Kept, kept, "")
            for name, about in kept["datasets"].items():
                if Path(about["file"]).name != about["file"]:
                    raise InputError(f"datasets.{name[:60]}.file is no name of a file")
        except InputError as error:
            raise InputError(
                f"{self.path} is damaged or of another version of cellscribe ({error}); {fix}"
            ) from None
        return dict(kept)

    def has(self, dataset: str, cells: int, skip_bad: bool, log: Log) -> bool:
        """Tell whether a dataset is finished."""
        if dataset in self.left_out:
            return skip_bad
        if dataset not in self.datasets:
            return False
        about = self.datasets[dataset]
        path = self.folder / about["file"]
        there = path.stat().st_size if path.is_file() else None
        if there == about["bytes"] and cells == about["cells"]:
            return True
        log(f"{path} is not as {NAME} lists it; it is read anew")
        return False

    def add(self, dataset: str, facts: dict[str, Any]) -> None:
        """Add a dataset whose file is in place."""
        self.datasets[dataset] = facts
        self.left_out.pop(dataset, None)
        self._write()

    def leave_out(self, dataset: str, reason: str) -> None:
        """Add a dataset that is left out."""
        self.left_out[dataset] = reason
        self.datasets.pop(dataset, None)
        self._write()

    def _write(self) -> None:
        contents = {
            "format": FORMAT,
            "version": VERSION,
            **self.identity,
            "datasets": self.datasets,
            "left_out": self.left_out,
        }
        write_json(self.path, contents)


def _word(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "none" if value is None else str(value)
