"""``manifest.json`` of a corpus, checked when it is read: types, bounds, and names of files.

What the checks let through, every reader may rely on: counts are whole numbers, a shard lies in
the corpus and stands there once, and the sums of splits and shards agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, NotRequired, TypedDict

from cellscribe.config.checked import Between, Count, Positive, check_value
from cellscribe.config.files import read_json
from cellscribe.errors import InputError

FORMAT, VERSION = "cellscribe corpus", 1
MANIFEST = "manifest.json"
MOST_BYTES = 1 << 30
"""Of a manifest; a shard takes 500 bytes, a dataset 100."""
HALVES = ("tokens", "counts")
CORE = (
    "cell", "cell_id", "input_ids", "length", "n_counts", "n_genes", "cell_hash", "source",
    "dataset_id",
)  # fmt: skip
"""Columns of a token file that are no labels."""


class Half(TypedDict):
    """A file or folder of a shard."""

    name: str
    bytes: Count
    sha256: str


class Shard(TypedDict):
    """Cells that are stored together."""

    cells: Positive
    tokens: Half
    counts: NotRequired[Half]


class Split(TypedDict):
    """A split."""

    cells: Count
    tokens: Count
    shards: list[Shard]


class Medians(TypedDict):
    """How the medians were found."""

    method: NotRequired[str | None]
    error: NotRequired[float | str | None]
    cells: NotRequired[Count]


class GeneSpace(TypedDict):
    """The gene table."""

    hash: str
    genes: NotRequired[Count]
    chosen: NotRequired[str]
    medians: NotRequired[Medians]


class Dataset(TypedDict):
    """A dataset, and the side of the split that it is on."""

    side: str
    cells: Count


class SourceGenes(TypedDict):
    """Columns of a source, and those that are known genes."""

    known: NotRequired[Count]
    columns: NotRequired[Count]
    key: NotRequired[str | None]


class Source(TypedDict):
    """A file that was read."""

    name: NotRequired[str]
    sha256: NotRequired[str | None]
    dataset_id: NotRequired[str | None]
    cells: NotRequired[Count | None]
    kept: NotRequired[Count | None]
    genes: NotRequired[SourceGenes | None]
    dropped: NotRequired[dict[str, Count] | None]
    notes: NotRequired[list[str] | None]


class Refused(TypedDict):
    """A file that was left out."""

    name: str
    reason: str


class SplitRule(TypedDict):
    """How the datasets were split."""

    note: NotRequired[str | None]


class Manifest(TypedDict):
    """All that is read of ``manifest.json``; other keys pass."""

    fingerprint: NotRequired[str]
    options: NotRequired[dict[str, Any] | None]
    context: Annotated[int, Between(1, 1 << 16)]
    labels: list[str]
    sources: NotRequired[list[Source]]
    refused: NotRequired[list[Refused]]
    dropped: NotRequired[dict[str, Count] | None]
    datasets: NotRequired[dict[str, Dataset]]
    split: NotRequired[SplitRule | None]
    vocabulary: GeneSpace
    splits: dict[str, Split]


def read_manifest(folder: Path, fix: str) -> dict[str, Any]:
    """Read the manifest of a corpus.

    Parameters
    ----------
    folder
        The corpus.
    fix
        End of each message: how to make the corpus again.

    Raises
    ------
    InputError
        It is damaged, of another version, or names what is not in the corpus.
    """
    path = folder / MANIFEST
    manifest = read_json(path, fix=fix, most=MOST_BYTES)
    form, version = manifest.get("format"), manifest.get("version")
    if form != FORMAT or type(version) is not int:
        raise InputError(f"{path} is not a corpus's manifest; {fix}")
    if version != VERSION:
        raise InputError(
            f"{folder} is a {form} of version {version}; this cellscribe reads {VERSION}"
        )
    try:
        check_value(Manifest, manifest, "")
        _check_labels(manifest["labels"])
        _check_sums(manifest)
        for name in _names(manifest):
            _check_name(folder, name)
    except InputError as error:
        raise InputError(f"{path}: {error}; it is damaged: {fix}") from None
    for name in ("datasets", "dropped"):  # a corpus of other programs need not tell them
        manifest[name] = manifest.get(name) or {}
    manifest["vocabulary"].setdefault("chosen", "not told")
    return manifest


def _check_labels(labels: list[str]) -> None:
    for place, label in enumerate(labels):
        if label in CORE or not label or label in labels[:place]:
            raise InputError(f"labels[{place}] {label[:60]!r} is a column already, or empty")


def _check_sums(manifest: dict[str, Any]) -> None:
    for split, facts in manifest["splits"].items():
        cells = sum(shard["cells"] for shard in facts["shards"])
        if cells != facts["cells"]:
            raise InputError(
                f"splits.{split[:60]}.cells is {facts['cells']:,}, its shards have {cells:,}"
            )


def _names(manifest: dict[str, Any]) -> Iterator[str]:
    """Yield the names of all files and folders of shards, each of which may stand there once."""
    seen = set()
    for facts in manifest["splits"].values():
        for shard in facts["shards"]:
            for half in HALVES:
                if half in shard:
                    name = shard[half]["name"]
                    if name in seen:
                        raise InputError(f"the shard {name[:100]!r} stands there twice")
                    seen.add(name)
                    yield name


def _check_name(folder: Path, name: str) -> None:
    """Refuse a name that leads out of the corpus."""
    parts = PurePosixPath(name).parts
    if not parts or parts[0] not in HALVES or ".." in parts or "\0" in name or "\\" in name:
        raise InputError(f"the shard {name[:100]!r} is not in the folders tokens or counts")
    try:
        inside = (folder / name).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError) as error:
        raise InputError(f"the shard {name[:100]!r} cannot be found ({error})") from None
    if not inside:
        raise InputError(f"the shard {name[:100]!r} is a link that leads out of the corpus")
