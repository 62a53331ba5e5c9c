"""Vectors and labels of what a user names: counts that are embedded, or vectors that are there.

Finished vectors are an output folder of `embed` over many sources (its manifest says of what model
they are, and its sources hold the columns of obs), or an ``.h5ad`` with vectors in obsm and their
provenance in ``uns["cellscribe"]``. Vectors of unknown origin are refused: a distance between the
vectors of two models means nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cellscribe.atlas.job import MANIFEST
from cellscribe.atlas.parts import ID, read_vectors
from cellscribe.atlas.sources import find_shards
from cellscribe.callbacks import Progress
from cellscribe.cells.counts import open_counts
from cellscribe.cells.gene_names.genes import GeneMap
from cellscribe.cells.source_lists import Shard
from cellscribe.cells.tokens import CellTokens
from cellscribe.config import InputOptions
from cellscribe.config.files import read_json
from cellscribe.errors import InputError
from cellscribe.index.made_by import check_made_by
from cellscribe.index.store import MadeBy
from cellscribe.inference.session import Cells, Session, part_of
from cellscribe.writing import hash_of

if TYPE_CHECKING:
    from anndata import AnnData

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A source of an index, read when its blocks are asked for."""

    name: str
    hash: str
    cells: Shard | AnnData
    """Counts, or the finished vectors' own."""
    finished: Path | None = None
    """File of finished vectors."""
    entry: Mapping[str, Any] = field(default_factory=dict)
    """What the manifest says of them."""


@dataclass(frozen=True)
class Block:
    """Consecutive cells."""

    vectors: npt.NDArray[np.floating]
    """``[B, D]``."""
    hashes: Hashes | None
    """``[B]`` of what the model read of each cell; None where that is not known."""


def find_references(
    words: str | Path | AnnData | Sequence[str | Path | AnnData],
) -> list[Reference]:
    """List the sources that are named; of finished vectors, each file is one.

    Raises
    ------
    InputError
        See `find_shards`; two sources have one name.
    """
    named = [words] if isinstance(words, str | Path) or hasattr(words, "obs") else list(words)
    found: list[Reference] = []
    for word in named:
        if not isinstance(word, str | Path):
            found.append(Reference(name=f"AnnData {len(found)}", hash="", cells=word))
        elif (Path(word) / MANIFEST).is_file():
            found += _finished(Path(word))
        else:
            found += [_of_shard(shard) for shard in find_shards([word])]
    if not found:
        raise InputError("no source is named; name files, a folder or a list of them")
    seen: set[str] = set()
    for reference in found:
        if reference.name in seen:
            raise InputError(
                f"two sources are named {reference.name}; list them in a CSV with the columns path "
                "and name"
            )
        seen.add(reference.name)
    return found


def _of_shard(shard: Shard) -> Reference:
    if "://" in shard.path:
        raise InputError(f"{shard.path}: embed sources in a bucket first, then index the vectors")
    path = Path(shard.path)
    if not path.exists():
        raise InputError(f"{path}: no such file; check the path")
    return Reference(name=shard.name, hash=hash_of(path), cells=shard)


def _finished(folder: Path) -> list[Reference]:
    """List the results of a run over many sources, each as it was written.

    Raises
    ------
    InputError
        The manifest is damaged, a source has no vectors, or they are not as they were written.
    """
    shards = read_json(folder / MANIFEST, fix="run embed again").get("shards")
    if not isinstance(shards, list) or not shards:
        raise InputError(f"{folder / MANIFEST} names no source; give the output folder of embed")
    found = []
    for shard in shards:
        if shard.get("status") != "done":
            why = shard.get("reason", "not done yet")
            raise InputError(f"{shard.get('name')} has no vectors ({why}); run embed again first")
        path = folder / shard["file"]
        if path.suffix != ".parquet":
            raise InputError(f"{path}: finished vectors are .parquet; embed with --form parquet")
        if not path.is_file() or hash_of(path) != shard["sha256"]:
            raise InputError(
                f"{path} is missing or not as it was written; remove it and run embed again"
            )
        cells = Shard(name=shard["name"], path=shard["path"])
        found.append(
            Reference(
                name=cells.name, hash=shard["sha256"], cells=cells, finished=path, entry=shard
            )
        )
    return found


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A source whose obs was read; its vectors come by blocks."""

    name: str
    obs: pd.DataFrame
    blocks: Iterator[Block]
    genes: GeneMap | None = None
    """Of counts."""


@contextmanager
def open_reference(
    reference: Reference,
    session: Session,
    wanted: MadeBy,
    *,
    use_rep: str | None,
    progress: Progress | None = None,
) -> Iterator[Opened]:
    """Open a source for its vectors and its obs.

    Parameters
    ----------
    reference
        From `find_references`.
    session
        The model, for counts.
    wanted
        What must have made finished vectors.
    use_rep
        Key of obsm with finished vectors; without, counts are embedded.
    progress
        Called with (cells done, cells in all).

    Raises
    ------
    InputError
        Vectors of another model, counts that cannot be read.
    """
    if reference.finished is not None:
        yield _open_finished(reference, wanted)
        return
    if use_rep is not None:
        yield _open_obsm(reference, use_rep, wanted)
        return
    named = reference.cells if isinstance(reference.cells, Shard) else None
    options = part_of(InputOptions, session.options)
    with open_counts(
        named.path if named else reference.cells,
        options=options,
        layer=named.layer if named else None,
        log=session.log,
    ) as counts:
        cells = session.map_genes(counts, (named and named.gene_key) or options.gene_key)
        yield opened_cells(session, cells, progress)


def opened_cells(session: Session, cells: Cells, progress: Progress | None) -> Opened:
    """Give opened counts as a source of an index."""
    found = session.embedder.blocks(cells.counts, cells.genes, progress=progress)
    return Opened(
        name=cells.counts.name,
        obs=cells.counts.obs,
        genes=cells.genes,
        blocks=(Block(block.vectors, _hash_cells(block.cells)) for block in found),
    )


def _open_finished(reference: Reference, wanted: MadeBy) -> Opened:
    """Open a file of an output folder; its source gives the columns of obs."""
    path, shard = reference.finished, reference.cells
    assert path is not None
    assert isinstance(shard, Shard)
    check_made_by(reference.entry.get("about") or {}, wanted, str(path))
    tables = [block.cells.to_pandas() for block in read_vectors(path, str(path))]
    cells = pd.concat(tables, ignore_index=True).set_index(ID)
    rows = (reference.entry.get("source") or {}).get("rows")
    obs = cells if len(cells.columns) else _obs_of(shard, cells, rows)
    blocks = (Block(each.vectors, None) for each in read_vectors(path, str(path)))
    return Opened(name=str(path), obs=obs, blocks=blocks)


def _obs_of(shard: Shard, cells: pd.DataFrame, rows: Sequence[int] | None) -> pd.DataFrame:
    """Read obs of the source that vectors were made of."""
    with open_counts(shard.path) as counts:
        obs = counts.obs
    obs = obs.iloc[slice(*rows)] if rows else obs
    if list(map(str, obs.index)) != list(map(str, cells.index)):
        raise InputError(
            f"{shard.path}: no longer the cells that {shard.name} was made of; embed it again"
        )
    return obs


def _open_obsm(reference: Reference, use_rep: str, wanted: MadeBy) -> Opened:
    shard = reference.cells
    if isinstance(shard, Shard):
        import anndata

        if not shard.path.endswith(".h5ad"):
            raise InputError(f"{shard.path}: --use-rep reads .h5ad; leave it out to embed counts")
        try:
            adata = anndata.read_h5ad(shard.path, backed="r")
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{shard.path}: cannot be read ({error}); check the file") from None
    else:
        adata = shard
    if use_rep not in adata.obsm:
        known = ", ".join(map(str, adata.obsm)) or "nothing"
        raise InputError(f"{reference.name}: obsm has no {use_rep!r} (--use-rep); it has {known}")
    about = adata.uns.get("cellscribe", {})
    check_made_by(about.get(use_rep, {}), wanted, f"{reference.name}, obsm {use_rep!r}")
    vectors = np.asarray(adata.obsm[use_rep])
    if vectors.shape != (adata.n_obs, wanted["width"]) or vectors.dtype.kind != "f":
        raise InputError(f"{reference.name}: obsm {use_rep!r} holds no vectors of that model")
    obs = adata.obs
    if adata.isbacked:
        adata.file.close()
    return Opened(name=reference.name, obs=obs, blocks=iter([Block(vectors, None)]))


def hash_rows(vectors: npt.NDArray[np.floating]) -> Hashes:
    """Hash each vector, ``[B, D]`` to ``[B]``: equal vectors, equal hashes."""
    rows = np.ascontiguousarray(vectors)
    return np.fromiter((_digest(row.tobytes()) for row in rows), np.uint64, len(rows))


def _hash_cells(cells: CellTokens) -> Hashes:
    """Hash what the model reads of each cell, ``[B]``."""
    arrays: list[npt.NDArray[Any]] = [cells.tokens]
    if cells.values is not None:
        arrays.append(cells.values)
    pairs = list(zip(cells.offsets[:-1], cells.offsets[1:], strict=True))
    read = (b"".join(each[start:end].tobytes() for each in arrays) for start, end in pairs)
    return np.fromiter(map(_digest, read), np.uint64, len(pairs))


def _digest(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
