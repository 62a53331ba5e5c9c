"""Failures cut down to one change each: what mutators once found, kept so that it stays mended.

Each is a clean input (`hostile.farm`), one change, and the words that the one line of the refusal
must have. They run in a process of their own: some of these changes once ended it.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from hostile import lies

Spoil = Callable[[Path], None]


@dataclass(frozen=True)
class Reduced:
    """One change to an input."""

    kind: str
    target: str
    spoil: Spoil
    line: str = ""
    """Found in the refusal, case ignored."""
    or_same: bool = False
    """Whether the clean input's result will do too: what is damaged need not be read."""


def _put(file: h5py.File, name: str, values: Any) -> None:
    kept = dict(file[name].attrs) if name in file else {}
    if name in file:
        del file[name]
    file[name] = values
    for key, value in kept.items():
        file[name].attrs[key] = value


def values(name: str, change: Callable[[np.ndarray], Any]) -> Spoil:
    """Replace a dataset by what a function makes of it."""

    def spoil(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            _put(file, name, change(file[name][()]))

    return spoil


def claims(name: str, *shape: int, compression: str | None = None) -> Spoil:
    """Let a dataset claim a size of which nothing is stored."""

    def spoil(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            dtype, kept = file[name].dtype, dict(file[name].attrs)
            del file[name]
            chunks = tuple(min(size, 1024) for size in shape)
            file.create_dataset(
                name, shape=shape, dtype=dtype, chunks=chunks, compression=compression
            )
            for key, value in kept.items():
                file[name].attrs[key] = value

    return spoil


def attribute(name: str, key: str, value: Any) -> Spoil:
    """Give an attribute another value."""

    def spoil(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            file[name].attrs[key] = value

    return spoil


def group(name: str) -> Spoil:
    """Put a group where a dataset was."""

    def spoil(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            kept = dict(file[name].attrs)
            del file[name]
            made = file.create_group(name)
            for key, value in kept.items():
                made.attrs[key] = value

    return spoil


def no_group(name: str) -> Spoil:
    """Put a dataset where a group was."""

    def spoil(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            del file[name]
            file[name] = np.arange(3)

    return spoil


def field(name: str, value: Any, file: str = "config.json") -> Spoil:
    """Change a field of a JSON file; ``a.b`` is b in a, and `value` of Ellipsis takes it away."""

    def spoil(path: Path) -> None:
        told = json.loads((path / file).read_text())
        *above, last = name.split(".")
        place = told
        for key in above:
            place = place[key]
        if value is ...:
            del place[last]
        else:
            place[last] = value
        (path / file).write_text(json.dumps(told))

    return spoil


def content(name: str, data: bytes) -> Spoil:
    """Replace a file's bytes."""
    return lambda path: ((path / name) if name else path).write_bytes(data) and None


def instead(name: str, make: Callable[[Path], Any]) -> Spoil:
    """Take a file away and put something else there."""

    def spoil(path: Path) -> None:
        there = path / name if name else path
        if there.is_dir():
            shutil.rmtree(there)
        else:
            there.unlink()
        make(there)

    return spoil


def weight(value: float) -> Spoil:
    """Put a value into the middle of the weights, sums of the file or not."""

    def spoil(path: Path) -> None:
        data = bytearray((path / "model.safetensors").read_bytes())
        at = len(data) - 4 * (len(data) // 16)
        data[at : at + 4] = struct.pack("<f", value)
        (path / "model.safetensors").write_bytes(bytes(data))

    return spoil


def swapped(one: str, other: str) -> Spoil:
    """Swap two files, found by what their names hold."""

    def spoil(path: Path) -> None:
        first, second = (next(path.rglob(f"*{name}*.pkl")) for name in (one, other))
        a, b = first.read_bytes(), second.read_bytes()
        first.write_bytes(b)
        second.write_bytes(a)

    return spoil


def pickled(how: str) -> Spoil:
    """Put an attack in the place of Geneformer's medians."""
    return lambda path: next(path.rglob("*median*.pkl")).write_bytes(lies.PICKLES[how]) and None


def nan_index(old: np.ndarray) -> np.ndarray:
    """Column indices as floats, one of them NaN: once written out of bounds."""
    new = old.astype(np.float32)
    new[len(new) // 2] = np.nan
    return new


def middle(path: Path) -> None:
    """Other counts in the middle of the input, its size as it was."""
    with h5py.File(path / "plain.h5ad", "r+") as file:
        data = file["X/data"]
        data[len(data) // 2 :] = data[len(data) // 2 :] + 1


def pipe_within(path: Path) -> None:
    """A pipe in a store, where nobody reads."""
    os.mkfifo(path / "uns" / "pipe")


def link_to_nowhere(name: str) -> Spoil:
    """Put a link to a file that is not there in an object's place."""

    def spoil(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            del file[name]
            file[name] = h5py.ExternalLink("/nowhere/x.h5", "/x")

    return spoil


def zeroed(path: Path) -> None:
    """Rows that a disk lost."""
    file = path / "out.npy.partial" / "vectors.npy"
    data = bytearray(file.read_bytes())
    data[200:400] = bytes(200)
    file.write_bytes(bytes(data))


def page(path: Path) -> None:
    """A Parquet page that does not decode, of a file that opens."""
    file = sorted(path.rglob("tokens/train/*.parquet"))[0]
    data = bytearray(file.read_bytes())
    data[4 : len(data) // 2] = bytes(len(data) // 2 - 4)
    file.write_bytes(bytes(data))


def zarr_field(array: str, key: str, value: Any) -> Spoil:
    """Lie in the metadata of a zarr array, consolidated ones too."""

    def spoil(path: Path) -> None:
        (path / array / "zarr.json").write_text(
            json.dumps(json.loads((path / array / "zarr.json").read_text()) | {key: value})
        )
        root = json.loads((path / "zarr.json").read_text())
        held = (root.get("consolidated_metadata") or {}).get("metadata", {})
        if array in held:
            held[array][key] = value
            (path / "zarr.json").write_text(json.dumps(root))

    return spoil


def features(text: str) -> Spoil:
    """Other features of a folder of matrices."""
    return content("genes.tsv", text.encode())


HEAD = b"%%MatrixMarket matrix coordinate integer general\n"
REDUCED: dict[str, Reduced] = {
    # HDF5: what is stored is no number, or not where it should be
    "NaN among indices": Reduced("h5ad", "embed", values("X/indices", nan_index)),
    "NaN among indices of 10x": Reduced("tenx_v3", "tokenize", values("matrix/indices", nan_index)),
    "fractional indices": Reduced("h5ad", "counts", values("X/indices", lambda old: old + 0.5)),
    "fractional row pointers": Reduced("h5ad", "counts", values("X/indptr", lambda old: old + 0.5)),
    "indices out of bounds": Reduced("h5ad", "counts", values("X/indices", lambda old: old + 200)),
    "negative indices": Reduced("tenx_v2", "counts", values("GRCh38/indices", lambda old: old - 1)),
    "data is a scalar": Reduced("h5ad_06", "counts", values("X/data", lambda old: old[0])),
    "data is a group": Reduced("tenx_v3", "counts", group("matrix/data")),
    "row pointers in two axes": Reduced(
        "h5ad", "counts", values("X/indptr", lambda old: old[None])
    ),
    "rows without names": Reduced("h5ad", "embed", values("obs/_index", lambda old: old[:15])),
    "names without rows": Reduced(
        "tenx_v3", "embed", values("matrix/barcodes", lambda old: old[:15])
    ),
    "shape of NaN": Reduced("h5ad", "counts", attribute("X", "shape", np.array([np.nan, 3]))),
    "shape of text": Reduced("h5ad", "counts", attribute("X", "shape", np.array([b"x", b"y"]))),
    "shape of 2^40 cells": Reduced(
        "h5ad", "counts", attribute("X", "shape", np.array([2**40, 200]))
    ),
    "shape is a scalar": Reduced("tenx_v3", "counts", values("matrix/shape", lambda old: 200)),
    "encoding of three values": Reduced(
        "h5ad", "counts", attribute("X", "encoding-type", [1, 2, 3])
    ),
    "layers is no group": Reduced("h5ad_rich", "counts", no_group("layers")),
    # sizes that lie
    "row pointers claim 2^28": Reduced(
        "h5ad", "counts", claims("X/indptr", 2**28, compression="gzip")
    ),
    "row pointers claim 2^31": Reduced("tenx_v2", "counts", claims("GRCh38/indptr", 2**31)),
    "data claims 2^40": Reduced("h5ad_csc", "counts", claims("X/data", 2**40)),
    "dense of 2^40 cells": Reduced("h5ad_dense", "embed", claims("X", 2**40, 200)),
    "loom of 2^40 cells": Reduced("loom", "embed", claims("matrix", 200, 2**40)),
    "names of loom claim 2^33": Reduced("loom", "counts", claims("row_attrs/Gene", 2**33)),
    "names of 10x claim 2^28": Reduced("tenx_v3", "counts", claims("matrix/features/name", 2**28)),
    "names of cells claim 2^40": Reduced("h5ad", "embed", claims("obs/_index", 2**40)),
    "zarr chunks of 0": Reduced(
        "zarr3_dense",
        "counts",
        zarr_field(
            "X", "chunk_grid", {"name": "regular", "configuration": {"chunk_shape": [0, 0]}}
        ),
    ),
    "zarr of 2^40 cells": Reduced("zarr3_dense", "counts", zarr_field("X", "shape", [2**40, 200])),
    "zarr node without a kind": Reduced("zarr3", "embed_zarr", content("X/zarr.json", b"{}")),
    "a loop of links within zarr": Reduced(
        "zarr3", "embed_zarr", instead("obs/batch", lambda p: p.symlink_to(p.name)), "npy"
    ),
    "a pipe within zarr": Reduced("zarr3", "embed_zarr", pipe_within, "npy"),
    "a link to nowhere above a modality": Reduced("h5mu", "embed_h5ad", link_to_nowhere("obs")),
    # text
    "features empty": Reduced("mtx_plain", "counts", features("")),
    "features ragged": Reduced(
        "mtx_plain", "counts", features("ENSG1\tA\nENSG2\n\tB\tGene Expression\n")
    ),
    "an entry of 100 kB": Reduced(
        "mtx_plain",
        "counts",
        content("matrix.mtx", HEAD + b"200 20 1\n1 1 " + b"9" * 100_000),
    ),
    "2^40 entries": Reduced(
        "mtx_plain",
        "counts",
        content("matrix.mtx", HEAD + b"200 20 1099511627776\n1 1 1\n"),
    ),
    "2^40 cells": Reduced(
        "mtx_plain",
        "counts",
        content("matrix.mtx", HEAD + b"200 1099511627776 1\n1 1 1\n"),
    ),
    # where a file should be
    "a loop of links": Reduced("h5ad", "embed", instead("", lambda p: p.symlink_to(p.name))),
    "a pipe": Reduced("h5ad", "counts", instead("", os.mkfifo)),
    "a link to nothing in a store": Reduced(
        "zarr3",
        "embed_zarr",
        instead("varm/zarr.json", lambda p: p.symlink_to("nothing")),
        "link to nothing",
    ),
    "a folder for the metadata of a store": Reduced(
        "zarr3", "embed_zarr", instead("uns/zarr.json", Path.mkdir), "folder", or_same=True
    ),
    "metrics are a pipe": Reduced("run", "resume", instead("metrics.jsonl", os.mkfifo)),
    "checkpoints are a pipe": Reduced("run", "resume", instead("checkpoints", os.mkfifo)),
    "weights are a folder": Reduced(
        "checkpoint", "embed_model", instead("model.safetensors", Path.mkdir)
    ),
    "weights are a loop": Reduced(
        "checkpoint", "embed_model", instead("model.safetensors", lambda p: p.symlink_to(p.name))
    ),
    # models
    "config of depth": Reduced("checkpoint", "info", content("config.json", b"[" * 200_000)),
    "10^12 layers": Reduced(
        "checkpoint", "embed_model", field("num_hidden_layers", 10**12), "num_hidden_layers"
    ),
    "a layer fewer": Reduced("checkpoint", "embed_model", field("num_hidden_layers", 1), "layer"),
    "silu": Reduced("checkpoint", "embed_model", field("hidden_act", "silu"), "hidden_act"),
    "norm of its own": Reduced("checkpoint", "embed_model", field("cellscribe.norm", "x"), "norm"),
    "no heads": Reduced(
        "checkpoint", "embed_model", field("num_attention_heads", ...), "num_attention_heads"
    ),
    "width of text": Reduced(
        "checkpoint", "embed_model", field("hidden_size", "32"), "hidden_size"
    ),
    "context of null": Reduced(
        "checkpoint", "tokenize_model", field("cellscribe.context", None), "context"
    ),
    "a pool that is none": Reduced(
        "checkpoint", "info", field("cellscribe.pooling.pool", "../../x"), "pool"
    ),
    "a weight of NaN": Reduced(
        "checkpoint", "embed_model", weight(float("nan")), "model.safetensors"
    ),
    "a weight of 1": Reduced("checkpoint", "embed_model", weight(1.0), "model.safetensors"),
    # a corpus and a run
    "no splits": Reduced("corpus", "card", field("splits", ..., "manifest.json"), "manifest"),
    "shards of text": Reduced(
        "corpus", "read_corpus", field("splits.train.shards", "x", "manifest.json"), "manifest"
    ),
    "a page that does not decode": Reduced("corpus", "read_corpus", page),
    "metrics that are no text": Reduced(
        "run", "resume", content("metrics.jsonl", b"\xa7\xff\n"), or_same=True
    ),
    # a run that is gone on with
    "other counts in the middle": Reduced("partial", "embed_resume", middle, "input"),
    "rows of zeros": Reduced("partial", "embed_resume", zeroed),
    # published models
    "dictionaries swapped": Reduced("published_geneformer", "import", swapped("token", "median")),
    **{
        f"pickle: {how}": Reduced("published_geneformer", "import", pickled(how))
        for how in lies.PICKLES
    },
    "args of depth": Reduced(
        "published_scgpt", "import", content("it/args.json", b'{"a":' * 200_000)
    ),
    "a result of depth": Reduced(
        "evaluation",
        "report_evaluation",
        content("results/celltype--cells--mini--0.json", b"[" * 200_000),
    ),
}
