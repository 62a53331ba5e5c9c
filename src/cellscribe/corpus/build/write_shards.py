"""Write shards from spill files: a bucket's cells in random order, as ranked tokens and counts.

Tokens are written to Parquet, counts to a sharded zarr v3 AnnData in the layout of annbatch's
collections (64 cells per chunk, Blosc-lz4 with byte shuffle), which anndata and scvi-tools open
too. A shard is finished when its record is written: a killed build continues after the last record.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cellscribe.callbacks import Progress
from cellscribe.cells.gene_names.vocabulary import Vocabulary
from cellscribe.cells.pipeline import ordered_map, usable_cores
from cellscribe.cells.rank import rank_cells
from cellscribe.config import DATASET
from cellscribe.config.files import read_json
from cellscribe.corpus.build.dedup_and_medians import without
from cellscribe.corpus.build.gene_space import tokens_of
from cellscribe.corpus.build.packing import random_keys
from cellscribe.corpus.build.plan import ORDER, BuildPlan
from cellscribe.corpus.build.spill import LISTS, SpillFile, list_array, read_bucket, rows_in_order
from cellscribe.corpus.store import (
    ROW_GROUP,
    counts_name,
    token_schema,
    tokens_name,
)
from cellscribe.writing import hash_of, size_of, write_json, writing

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from scipy.sparse import csr_matrix

CHUNK_CELLS = 64
"""Number of cells of a zarr chunk: annbatch's default."""
COLLECTION = {"encoding-type": "annbatch-preshuffled", "encoding-version": "0.1.0"}
"""Attributes by which annbatch recognises a folder of AnnData shards as a collection."""


@dataclass(frozen=True, kw_only=True)
class ShardInputs:
    """What all shards have in common."""

    plan: BuildPlan
    spills: Sequence[SpillFile]
    duplicates: npt.NDArray[np.int64]
    vocabulary: Vocabulary
    token_of_gene: npt.NDArray[np.int32]
    out: Path


def write_shards(
    plan: BuildPlan,
    spills: Sequence[SpillFile],
    duplicates: npt.NDArray[np.int64],
    vocabulary: Vocabulary,
    out: Path,
    records: Path,
    *,
    progress: Progress | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """Write every shard that has no record yet.

    Parameters
    ----------
    plan, spills, duplicates, vocabulary
        The cells to write, without duplicates, and their tokens.
    out
        Folder of the corpus.
    records
        Folder of the shards' records.
    progress
        Called with (cells written, cells in total), with duplicates.

    Returns
    -------
    Split -> its shards, as the manifest lists them.

    Raises
    ------
    OutputError
        The disk is full.
    """
    token_of_gene = tokens_of(plan.space, vocabulary)
    inputs = ShardInputs(
        plan=plan,
        spills=spills,
        duplicates=duplicates,
        vocabulary=vocabulary,
        token_of_gene=token_of_gene,
        out=out,
    )
    records.mkdir(exist_ok=True)
    shards = [(split, n) for split, size in plan.n_buckets.items() for n in range(size)]
    for split in plan.n_buckets:
        (out / "tokens" / split).mkdir(parents=True, exist_ok=True)
        _make_collection(out / "counts" / f"{split}.zarr")

    def write(shard: tuple[str, int]) -> dict[str, Any]:
        split, number = shard
        record = records / f"{split}-{number:05}.json"
        if not record.exists():
            write_json(record, _write_shard(inputs, split, number))
        return read_json(record, fix="remove the unfinished corpus, and build it anew")

    done = 0
    found: dict[str, list[dict[str, Any]]] = {split: [] for split in plan.n_buckets}
    # one more than cores: a shard sometimes waits for the disk and for Python's lock
    workers = min(usable_cores() + 1, 4)
    with (
        _zarr_settings(),
        ThreadPoolExecutor(workers, thread_name_prefix="pack") as pool,
        closing(ordered_map(pool, write, shards, ahead=workers)) as written,
    ):
        for (split, _), record in zip(shards, written, strict=True):
            if record["cells"]:
                found[split].append(record)
            done += record["cells"] + record.pop("duplicates")
            if progress is not None:
                progress(done, int(plan.starts[-1]))
    return {split: shards for split, shards in found.items() if shards}


def _write_shard(inputs: ShardInputs, split: str, number: int) -> dict[str, Any]:
    plan = inputs.plan
    names = ["cell", "cell_id", "n_counts", "cell_hash", DATASET, *plan.options.labels, *LISTS]
    gathered = read_bucket(inputs.spills, plan.first_bucket[split] + number, names)
    if gathered is None:
        return {"cells": 0, "duplicates": 0}
    cells = without(gathered, inputs.duplicates)
    n_duplicates = len(gathered) - len(cells)
    if not len(cells):
        return {"cells": 0, "duplicates": n_duplicates}
    numbers = cells["cell"].to_numpy()
    keys = random_keys(numbers, plan.split_options.seed, ORDER)
    order = np.lexsort((numbers, keys))
    obs = cells.drop_columns(list(LISTS)).take(order)
    matrix = _matrix(cells, order, len(plan.space))
    # frees some 200 MB before the writers make their copies
    del cells, gathered
    out = inputs.out
    tokens, counted = tokens_name(split, number), counts_name(split, number)
    n_tokens = _write_tokens(out / tokens, matrix, obs, inputs)
    _write_counts(out / counted, matrix, obs, plan)
    codes, sizes = np.unique(obs[DATASET].to_numpy(), return_counts=True)
    return {
        "cells": len(obs),
        "duplicates": n_duplicates,
        "datasets": {
            plan.categories[DATASET][code]: n
            for code, n in zip(codes.tolist(), sizes.tolist(), strict=True)
        },
        "tokens": _file_entry(out, tokens) | {"tokens": n_tokens},
        "counts": _file_entry(out, counted) | {"non_zeros": int(matrix.nnz)},
    }


def _file_entry(out: Path, name: str) -> dict[str, Any]:
    return {"name": name, "bytes": size_of(out / name), "sha256": hash_of(out / name)}


def _matrix(cells: pa.Table, order: npt.NDArray[np.int64], n_genes: int) -> csr_matrix:
    """Return the counts of the cells in their new order, in one copy, with narrow indices.

    SciPy's constructor would widen the indices and check them again.
    """
    from scipy.sparse import csr_matrix

    matrix = csr_matrix((len(order), n_genes), dtype=np.float32)
    matrix.data, matrix.indptr = rows_in_order(
        cells["counts"].chunks, order, np.float32, scratch="counts"
    )
    matrix.indices, _ = rows_in_order(cells["genes"].chunks, order, scratch="genes")
    return matrix


def _rows(matrix: csr_matrix, start: int, stop: int) -> csr_matrix:
    """Return some rows, with indices of SciPy's type."""
    from cellscribe.cells.readers.matrices import make_rows

    offsets = matrix.indptr[start : stop + 1]
    part = slice(offsets[0], offsets[-1])
    genes = matrix.indices[part].astype(np.int32)
    indptr = (offsets - offsets[0]).astype(np.int32)
    return make_rows(matrix.data[part], genes, indptr, matrix.shape[1])


def _dictionaries(obs: pa.Table, plan: BuildPlan) -> Iterator[tuple[str, npt.NDArray[np.int32]]]:
    """Yield source, dataset and labels of the cells as codes of the plan's categories."""
    place = np.searchsorted(plan.starts, obs["cell"].to_numpy(), side="right") - 1
    yield "source", place.astype(np.int32)
    for name in (DATASET, *plan.options.labels):
        yield name, obs[name].to_numpy()


def _write_tokens(path: Path, matrix: csr_matrix, obs: pa.Table, inputs: ShardInputs) -> int:
    """Rank the cells and write them; return the number of tokens."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    plan = inputs.plan
    medians, context = inputs.vocabulary.medians, plan.options.context
    schema = token_schema(plan.options.labels)
    tokens = schema.field("input_ids").type
    codes = dict(_dictionaries(obs, plan))
    words = {name: pa.array(plan.categories[name], pa.string()) for name in codes}
    n_tokens = 0
    with (
        writing(path) as partial,
        pq.ParquetWriter(
            partial,
            schema,
            compression="lz4",
            # As small as dictionaries of tokens, and twice as fast to read.
            column_encoding={"input_ids.list.element": "BYTE_STREAM_SPLIT"},
            use_dictionary=["source", DATASET, *plan.options.labels],
            write_statistics=False,
        ) as writer,
    ):
        for start in range(0, matrix.shape[0], ROW_GROUP):
            part = slice(start, min(start + ROW_GROUP, matrix.shape[0]))
            ranked = rank_cells(
                _rows(matrix, part.start, part.stop), inputs.token_of_gene, medians, context
            )
            rows = obs.slice(start, ROW_GROUP)
            columns = {
                "cell": rows["cell"],
                "cell_id": rows["cell_id"],
                "input_ids": list_array(ranked.tokens, ranked.offsets).cast(tokens),
                "length": ranked.lengths.astype(np.int32),
                "n_counts": rows["n_counts"],
                "n_genes": ranked.genes,
                "cell_hash": rows["cell_hash"],
                **{
                    name: pa.DictionaryArray.from_arrays(pa.array(values[part]), words[name])
                    for name, values in codes.items()
                },
            }
            writer.write_table(pa.table(columns, schema=schema), row_group_size=ROW_GROUP)
            n_tokens += len(ranked.tokens)
    return n_tokens


def _obs(matrix: csr_matrix, obs: pa.Table, plan: BuildPlan) -> pd.DataFrame:
    import pandas as pd

    columns: dict[str, Any] = {
        "cell_id": obs["cell_id"].to_numpy(),
        "n_counts": obs["n_counts"].to_numpy(),
        "n_genes": np.diff(matrix.indptr).astype(np.int32),
        "cell_hash": obs["cell_hash"].to_numpy(),
    }
    for name, codes in _dictionaries(obs, plan):
        columns[name] = pd.Categorical.from_codes(codes, plan.categories[name])  # type: ignore[call-overload]
    return pd.DataFrame(columns, index=obs["cell"].to_numpy().astype(str))


def _write_counts(path: Path, matrix: csr_matrix, obs: pa.Table, plan: BuildPlan) -> None:
    """Write an AnnData with one shard per array, in chunks of `CHUNK_CELLS` cells."""
    import anndata
    import pandas as pd
    import zarr
    from zarr.codecs import BloscCodec

    chunk = max(1, CHUNK_CELLS * matrix.nnz // matrix.shape[0])
    shard = -(-max(1, matrix.nnz) // chunk) * chunk
    compressor = BloscCodec(cname="lz4", clevel=3, shuffle="shuffle")

    def element(
        write: Callable[..., None],
        store: Any,
        name: str,
        value: Any,
        dataset_kwargs: Mapping[str, Any],
        *,
        iospec: Any,
    ) -> None:
        if iospec.encoding_type == "csr_matrix":
            sizes = {"chunks": (chunk,), "shards": (shard,), "compressors": (compressor,)}
            dataset_kwargs = {**dataset_kwargs, **sizes}
        write(store, name, value, dataset_kwargs=dataset_kwargs)

    var = pd.DataFrame({"symbol": list(plan.space.symbols)}, index=list(plan.space.ids))
    adata = anndata.AnnData(X=matrix, obs=_obs(matrix, obs, plan), var=var)
    with writing(path) as partial:
        group = zarr.open_group(partial, mode="w", zarr_format=3)
        anndata.experimental.write_dispatched(group, "/", adata, callback=element)


@contextmanager
def _zarr_settings() -> Iterator[None]:
    """Set zarr v3 and 16-bit gene numbers where they fit, once for all threads."""
    import anndata
    import zarr

    settings = {
        "zarr_write_format": 3,
        "write_csr_csc_indices_with_min_possible_dtype": True,
        "auto_shard_zarr_v3": True,
    }
    # anndata 0.13 shards by default and has no such setting
    there = {name: value for name, value in settings.items() if hasattr(anndata.settings, name)}
    with (
        warnings.catch_warnings(),
        anndata.settings.override(**there),
        # no chunk of counts is all zero; looking for one takes longer than compressing it
        zarr.config.set({"array.write_empty_chunks": True}),
    ):
        warnings.filterwarnings("ignore", "The codec `vlen-utf8`", UserWarning)
        # anndata silences it too, but threads share the filters, and one may end earlier
        warnings.filterwarnings("ignore", "Automatic shard shape inference", UserWarning)
        yield


def _make_collection(path: Path) -> None:
    """Make the folder of a split's shards, which annbatch opens as a collection."""
    import zarr

    zarr.open_group(path, mode="a", zarr_format=3).attrs.update(COLLECTION)
