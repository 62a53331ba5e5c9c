"""Reads a collection of counts with annbatch; run by an interpreter that has it, alone.

``python -I annbatch_peer.py COLLECTION BATCH BUFFER`` imports nothing of this package. It
writes JSON lines: first what it is, then, for each line ``CHUNK SEED`` that it is sent, how long an
epoch of sparse batches took. Settings are those of annbatch's own guide: the zarrs codecs, shuffled
chunks, a buffer of `BUFFER` cells. Columns of obs are left aside, which only makes it faster.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from importlib import metadata
from typing import Any

PACKAGES = ("annbatch", "anndata", "zarr", "zarrs", "numpy", "scipy")


def main(collection: str, batch: int, buffer: int) -> None:
    """Answer lines of ``CHUNK SEED`` until there are no more."""
    import anndata
    import numpy as np
    import pandas as pd
    import zarr
    from annbatch import DatasetCollection, Loader

    zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})

    def load(group: zarr.Group) -> anndata.AnnData:
        counts = anndata.io.sparse_dataset(group["X"])
        rows, columns = (pd.RangeIndex(n).astype(str) for n in counts.shape)
        return anndata.AnnData(
            X=counts, obs=pd.DataFrame(index=rows), var=pd.DataFrame(index=columns)
        )

    datasets = DatasetCollection(collection, mode="r")
    log({name: metadata.version(name) for name in PACKAGES} | {"python": sys.version.split()[0]})
    for line in sys.stdin:
        chunk, seed = map(int, line.split())
        loader = Loader(
            batch_size=batch,
            chunk_size=chunk,
            preload_nchunks=max(1, buffer // chunk),
            shuffle=True,
            rng=np.random.default_rng(seed),
        ).use_collection(datasets, load_adata=load)
        cells = counts = 0
        start = time.perf_counter()
        for item in loader:
            cells += item["X"].shape[0]
            counts += item["X"].nnz
        log({"seconds": time.perf_counter() - start, "cells": cells, "counts": counts})


def log(value: dict[str, Any]) -> None:
    """Write a line at once."""
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
