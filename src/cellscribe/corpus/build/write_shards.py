"""From runs to shards: a bucket's cells put in their random order, ranked, written twice.

Tokens go to Parquet, counts to a sharded zarr v3 AnnData in the layout of annbatch's collections
(64 cells a chunk, Blosc-lz4 with byte shuffle), which anndata and scvi-tools open as well. A shard
counts as written when its record is: a killed build goes on behind the last record.
"""

from __future__ import annotations

import json
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
from cellscribe.cells.pipeline import ordered_map, usable_cores
from cellscribe.cells.rank import rank_cells
from cellscribe.cells.vocabulary import Vocabulary
from cellscribe.config import DATASET
from cellscribe.corpus.build.gene_space import tokens_of
from cellscribe.corpus.build.packing import random_keys
from cellscribe.corpus.build.plan import ORDER, Plan
from cellscribe.corpus.build.spill import LISTS, Run, list_array, read_bucket, rows_in_order
from cellscribe.corpus.store import (
    ROW_GROUP,
    counts_name,
    token_schema,
    tokens_name,
)
from cellscribe.corpus.build.dedup_and_medians import without
from cellscribe.writing import hash_of, size_of, write_json, writing

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from scipy.sparse import csr_matrix

CHUNK_CELLS = 64
"""Cells a zarr chunk: annbatch's own default."""
COLLECTION = {"encoding-type": "annbatch-preshuffled", "encoding-version": "0.1.0"}
"""How annbatch knows a folder of AnnData shards as one of its collections."""


@dataclass(frozen=True, kw_only=True)
class Packing:
    """What every shard needs."""

    plan: Plan
    runs: Sequence[Run]
    duplicates: npt.NDArray[np.int64]
    vocabulary: Vocabulary
    token_of_gene: npt.NDArray[np.int32]
    out: Path


def pack(
    plan: Plan,
    runs: Sequence[Run],
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
    plan, runs, duplicates, vocabulary
        What is written; duplicates are left out.
    out
        The corpus.
    records
        Folder of the shards' records.
    progress
        Told (cells written, cells in all, duplicates among them).

    Returns
    -------
    Split -> its shards, as the manifest lists them.

    Raises
    ------
    OutputError
        The disk is full.
    """
    token_of_gene = tokens_of(plan.space, vocabulary)
    packing = Packing(
        plan=plan,
        runs=runs,
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
            write_json(record, _write_shard(packing, split, number))
        return json.loads(record.read_text(encoding="utf-8"))

    done = 0
    found: dict[str, list[dict[str, Any]]] = {split: [] for split in plan.n_buckets}
    # One more than there are cores: a shard waits for the disk and for Python's lock now and then.
    workers = min(usable_cores() + 1, 4)
    with (
        _zarr_settings(),
        ThreadPoolExecutor(workers, thread_name_prefix="pack") as pool,
        closing(ordered_map(pool, write, shards, ahead=workers)) as told,
    ):
        for (split, _), record in zip(shards, told, strict=True):
            if record["cells"]:
                found[split].append(record)
            done += record["cells"] + record.pop("duplicates")
            if progress is not None:
                progress(done, int(plan.starts[-1]))
    return {split: shards for split, shards in found.items() if shards}


def _write_shard(packing: Packing, split: str, number: int) -> dict[str, Any]:
    plan = packing.plan
    names = ["cell", "cell_id", "n_counts", "cell_hash", DATASET, *plan.options.labels, *LISTS]
    gathered = read_bucket(packing.runs, plan.first_bucket[split] + number, names)
    if gathered is None:
        return {"cells": 0, "duplicates": 0}
    cells = without(gathered, packing.duplicates)
    n_duplicates = len(gathered) - len(cells)
    if not len(cells):
        return {"cells": 0, "duplicates": n_duplicates}
    numbers = cells["cell"].to_numpy()
    keys = random_keys(numbers, plan.split_options.seed, ORDER)
    order = np.lexsort((numbers, keys))
    told = cells.drop_columns(list(LISTS)).take(order)
    matrix = _matrix(cells, order, len(plan.space))
    # some 200 MB, and the writers' copies are to come
    del cells, gathered
    out = packing.out
    tokens, counted = tokens_name(split, number), counts_name(split, number)
    n_tokens = _write_tokens(out / tokens, matrix, told, packing)
    _write_counts(out / counted, matrix, told, plan)
    codes, sizes = np.unique(told[DATASET].to_numpy(), return_counts=True)
    return {
        "cells": len(told),
        "duplicates": n_duplicates,
        "datasets": {
            plan.categories[DATASET][code]: n
            for code, n in zip(codes.tolist(), sizes.tolist(), strict=True)
        },
        "tokens": _told(out, tokens) | {"tokens": n_tokens},
        "counts": _told(out, counted) | {"non_zeros": int(matrix.nnz)},
    }


def _told(out: Path, name: str) -> dict[str, Any]:
    return {"name": name, "bytes": size_of(out / name), "sha256": hash_of(out / name)}


def _matrix(cells: pa.Table, order: npt.NDArray[np.int64], n_genes: int) -> csr_matrix:
    """Counts of the cells in their new order, in one copy, indices as narrow as they came.

    SciPy's own constructor would widen the indices and look through what is known to be right.
    """
    from scipy.sparse import csr_matrix

    matrix = csr_matrix((len(order), n_genes), dtype=np.float32)
    matrix.data, matrix.indptr = rows_in_order(
        cells["counts"].chunks, order, np.float32, scratch="counts"
    )
    matrix.indices, _ = rows_in_order(cells["genes"].chunks, order, scratch="genes")
    return matrix


def _rows(matrix: csr_matrix, start: int, stop: int) -> csr_matrix:
    """Some rows, with indices as SciPy has them."""
    from cellscribe.cells.matrices import make_rows

    offsets = matrix.indptr[start : stop + 1]
    part = slice(offsets[0], offsets[-1])
    genes = matrix.indices[part].astype(np.int32)
    indptr = (offsets - offsets[0]).astype(np.int32)
    return make_rows(matrix.data[part], genes, indptr, matrix.shape[1])


def _dictionaries(told: pa.Table, plan: Plan) -> Iterator[tuple[str, npt.NDArray[np.int32]]]:
    """Source, dataset and labels of the cells as codes of the plan's categories."""
    place = np.searchsorted(plan.starts, told["cell"].to_numpy(), side="right") - 1
    yield "source", place.astype(np.int32)
    for name in (DATASET, *plan.options.labels):
        yield name, told[name].to_numpy()


def _write_tokens(path: Path, matrix: csr_matrix, told: pa.Table, packing: Packing) -> int:
    """Rank the cells and write them; gives the number of tokens."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    plan = packing.plan
    medians, context = packing.vocabulary.medians, plan.options.context
    schema = token_schema(plan.options.labels)
    tokens = schema.field("input_ids").type
    codes = dict(_dictionaries(told, plan))
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
                _rows(matrix, part.start, part.stop), packing.token_of_gene, medians, context
            )
            rows = told.slice(start, ROW_GROUP)
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


def _obs(matrix: csr_matrix, told: pa.Table, plan: Plan) -> pd.DataFrame:
    import pandas as pd

    columns: dict[str, Any] = {
        "cell_id": told["cell_id"].to_numpy(),
        "n_counts": told["n_counts"].to_numpy(),
        "n_genes": np.diff(matrix.indptr).astype(np.int32),
        "cell_hash": told["cell_hash"].to_numpy(),
    }
    for name, codes in _dictionaries(told, plan):
        columns[name] = pd.Categorical.from_codes(codes, plan.categories[name])  # type: ignore[call-overload]
    return pd.DataFrame(columns, index=told["cell"].to_numpy().astype(str))


def _write_counts(path: Path, matrix: csr_matrix, told: pa.Table, plan: Plan) -> None:
    """Write an AnnData whose arrays are one shard each, in chunks of `CHUNK_CELLS` cells."""
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
    adata = anndata.AnnData(X=matrix, obs=_obs(matrix, told, plan), var=var)
    with writing(path) as partial:
        group = zarr.open_group(partial, mode="w", zarr_format=3)
        anndata.experimental.write_dispatched(group, "/", adata, callback=element)


@contextmanager
def _zarr_settings() -> Iterator[None]:
    """Zarr v3, 16-bit gene numbers where they fit; for all threads, so set once around them."""
    import anndata
    import zarr

    wished = {
        "zarr_write_format": 3,
        "write_csr_csc_indices_with_min_possible_dtype": True,
        "auto_shard_zarr_v3": True,
    }
    # anndata 0.13 shards of itself and has no such setting
    there = {name: value for name, value in wished.items() if hasattr(anndata.settings, name)}
    with (
        warnings.catch_warnings(),
        anndata.settings.override(**there),
        # no chunk of counts is all zero; looking for one takes longer than compressing it
        zarr.config.set({"array.write_empty_chunks": True}),
    ):
        warnings.filterwarnings("ignore", "The codec `vlen-utf8`", UserWarning)
        # anndata silences it too, but filters are of all threads: one's end is heard by another
        warnings.filterwarnings("ignore", "Automatic shard shape inference", UserWarning)
        yield


def _make_collection(path: Path) -> None:
    """Make the folder of a split's shards, which annbatch opens as one."""
    import zarr

    zarr.open_group(path, mode="a", zarr_format=3).attrs.update(COLLECTION)
