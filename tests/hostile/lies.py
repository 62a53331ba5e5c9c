"""Structured lies in JSON, text, tensors, pickles and folders."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ESCAPE = "\x1b]0;owned\x07\x1b[31mred\x1b[0m\r\x9b2J"
WEIRD: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 0.5, 1e308, float("nan"), float("inf"), 2**31, 2**40, 10**12,
    10**400, "", "x", "silu", "NaN", ESCAPE, "x" * 100_000, "../../../etc/passwd", [], {}, [1, 2],
    {"a": 1}, [[[]]], [None] * 1000,
)  # fmt: skip
NUMBERS = (-1, 0, 2**31, 2**40, 10**30, 1.5, "nan", "1e5")
BOMBS = (
    b"[" * 200_000,
    b'{"a":' * 200_000,
    b"",
    b"null",
    b"[]",
    b"{}",
    b"7",
    b'"text"',
    b"\xff\xfe{}",
)


def _leaves(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    )
    found = [path] if path else []
    for key, value in items:
        if not isinstance(key, int) or key < 4:
            found += _leaves(value, (*path, key))
    return found


def change_tree(tree: Any, rng: random.Random) -> str:
    """Change one place of parsed JSON, whole branches included."""
    places = _leaves(tree)
    if not places:
        return "nothing to change"
    *above, last = rng.choice(places)
    parent = tree
    for key in above:
        parent = parent[key]
    how = rng.random()
    if how < 0.15 and isinstance(parent, dict):
        del parent[last]
        return f"no {last!r}"
    if how < 0.25 and isinstance(parent, dict):
        parent[f"{last}{rng.choice(('', ' ', ESCAPE))}x"] = parent.pop(last)
        return f"{last!r} renamed"
    if how < 0.35 and isinstance(parent[last], int | float) and not isinstance(parent[last], bool):
        parent[last] = parent[last] * rng.choice((2, -1, 0.5, 10**9)) + rng.choice((0, 1))
        return f"{last!r} is {str(parent[last])[:30]}"
    parent[last] = rng.choice(WEIRD)
    return f"{last!r} is {str(parent[last])[:20]!r}"


def json_file(path: Path, rng: random.Random) -> str:
    """Lie in a JSON file; one time in eight it is no such tree at all."""
    if rng.random() < 0.12:
        path.write_bytes(rng.choice(BOMBS))
        return "another tree"
    tree = json.loads(path.read_text())
    told = change_tree(tree, rng)
    path.write_text(json.dumps(tree))
    return told


def safetensors_file(path: Path, rng: random.Random) -> str:
    """Lie in the header, or put values in that are no weights."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + size]), bytearray(data[8 + size :])
    how = rng.randrange(5)
    if how == 0:
        path.write_bytes(struct.pack("<Q", rng.choice((0, 1, size + 1, 2**28, 2**62))) + data[8:])
        return "length of the header"
    if how == 1:
        names = [n for n in header if header[n].get("dtype") in ("F32", "F16", "BF16")]
        first, last = header[rng.choice(names or list(header))]["data_offsets"]
        at = rng.randrange(first, max(last - 4, first + 1)) // 4 * 4
        body[at : at + 4] = struct.pack("<f", rng.choice((float("nan"), float("inf"), 1e38, -1e30)))
        told = "a weight that is not finite or far too large"
    else:
        told = change_tree(header, rng)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(body))
    return told


def text_file(path: Path, rng: random.Random) -> str:
    """Lie in a table or a list of lines, compressed or not."""
    import gzip

    zipped = path.name.endswith(".gz")
    data = gzip.decompress(path.read_bytes()) if zipped else path.read_bytes()
    lines = data.decode("latin-1").split("\n")
    at = rng.randrange(max(len(lines) - 1, 1))
    words = lines[at].replace("\t", " ").split(" ")
    word = rng.randrange(len(words))
    lies: dict[str, Callable[[], Any]] = {
        "empty": lambda: lines.clear(),
        "a line less": lambda: lines.pop(at),
        "a line twice": lambda: lines.insert(at, lines[at]),
        "an empty line": lambda: lines.insert(at, ""),
        "a column less": lambda: lines.__setitem__(at, lines[at].rpartition("\t")[0]),
        "a column more": lambda: lines.__setitem__(at, lines[at] + "\tmore\tand more"),
        "quoted": lambda: lines.__setitem__(at, '"' + lines[at] + '"'),
        "an open quote": lambda: lines.__setitem__(at, '"' + lines[at]),
        "a NUL": lambda: lines.__setitem__(at, lines[at] + "\0"),
        "escapes": lambda: lines.__setitem__(at, ESCAPE + lines[at]),
        "a long line": lambda: lines.__setitem__(at, lines[at] + "9" * 100_000),
        "Windows": lambda: lines.__setitem__(slice(None), [line + "\r" for line in lines]),
        "a mark of order": lambda: lines.__setitem__(0, "\xef\xbb\xbf" + lines[0]),
        "no UTF-8": lambda: lines.__setitem__(at, lines[at] + "\xe9\xff"),
        "reversed": lambda: lines.reverse(),
        "a number": lambda: (
            words.__setitem__(word, str(rng.choice(NUMBERS))),
            lines.__setitem__(at, (" " if " " in lines[at] else "\t").join(words)),
        ),
    }  # fmt: skip
    how = rng.choice(sorted(lies))
    lies[how]()
    data = "\n".join(lines).encode("latin-1")
    path.write_bytes(gzip.compress(data, 1) if zipped else data)
    return how


def _pickles() -> dict[str, bytes]:
    """Pickles that are no tables: calls, depth, sizes, arrays with a state of their own."""
    deep: Any = ()
    for _ in range(900):
        deep = (deep,)
    call = b"cos\nsystem\n(S'touch OWNED'\ntR."
    state = (
        b"\x80\x02cnumpy\ndtype\n(X\x02\x00\x00\x00V8K\x00K\x01tR(K\x03X\x01\x00\x00\x00|NN"
        b"(X\x01\x00\x00\x00atX\x01\x00\x00\x00aNtb."
    )
    return {
        "a call": call,
        "a deep tuple": pickle.dumps({deep: 1}, 2),
        "far deeper": b"\x80\x02" + b")" + b"\x85" * 2_000_000 + b".",
        "a dtype with a state": state,
        "a list": pickle.dumps([1, 2, 3]),
        "a long number": pickle.dumps({"a": 10**5000}),
        "a size": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.",
        "marks": b"(" * 1_000_000 + b".",
        "memo": b"\x80\x02K\x01" + b"r" + struct.pack("<I", 2**31) + b".",
        "text for numbers": pickle.dumps({"ENSG00000000003": "x", 5: None}),
        "NaN": pickle.dumps({f"ENSG{i:011}": float("nan") for i in range(60)}),
        "escapes": pickle.dumps({ESCAPE: 1.0, "b": ESCAPE}),
        "nothing": b"",
    }


PICKLES = _pickles()


def pickle_file(path: Path, rng: random.Random) -> str:
    """Put another pickle in the place of one."""
    how = rng.choice(sorted(PICKLES))
    path.write_bytes(PICKLES[how])
    return how


def torch_file(path: Path, rng: random.Random) -> str:
    """Change what torch's zip holds, with sums that fit: its pickle, or a tensor's bytes."""
    if not zipfile.is_zipfile(path):
        return rows_file(path, rng)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(sorted(parts)) if rng.random() < 0.5 else _pickle_in(parts)
    data, how = bytearray(parts[name]), rng.randrange(4)
    if name.endswith(".pkl") and how == 0:
        data = bytearray(rng.choice(sorted(PICKLES.values())))
    elif how == 1 and len(data) >= 4:
        at = rng.randrange(len(data) // 4) * 4
        data[at : at + 4] = struct.pack("<f", float("nan"))
    elif how == 2 and data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    else:
        data = data[: rng.randrange(len(data) + 1)]
    parts[name] = bytes(data)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for each, content in parts.items():
            archive.writestr(each, content)
    path.write_bytes(packed.getvalue())
    return f"{name} changed"


def _pickle_in(parts: dict[str, bytes]) -> str:
    return next((name for name in sorted(parts) if name.endswith(".pkl")), min(parts))


def rows_file(path: Path, rng: random.Random) -> str:
    """Spoil rows of plain numbers: zeros, as a hole of a disk has them, NaN, other rows."""
    data = bytearray(path.read_bytes())
    at, size = rng.randrange(len(data)) // 4 * 4, rng.choice((4, 32, 128, 512))
    how = rng.choice(("zeros", "NaN", "another row"))
    piece = data[at : at + size]
    if how == "zeros":
        data[at : at + size] = bytes(len(piece))
    elif how == "NaN":
        data[at : at + size] = (struct.pack("<f", float("nan")) * (size // 4))[: len(piece)]
    else:
        data[-len(piece) :] = piece
    path.write_bytes(bytes(data))
    return f"{how} in rows"


def parquet_file(path: Path, rng: random.Random) -> str:
    """Lie in a column, and make the manifest above agree."""
    import hashlib

    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    name = rng.choice(table.column_names)
    place, n = table.column_names.index(name), table.num_rows
    lies: dict[str, Callable[[], Any]] = {
        "gone": lambda: table.remove_column(place),
        "null": lambda: table.set_column(place, name, pa.nulls(n, table.schema.field(name).type)),
        "text": lambda: table.set_column(place, name, pa.array([ESCAPE] * n)),
        "negative": lambda: table.set_column(place, name, pa.array([-1] * n)),
        "huge": lambda: table.set_column(place, name, pa.array([2**40] * n)),
        "NaN": lambda: table.set_column(place, name, pa.array([float("nan")] * n)),
        "lists": lambda: table.set_column(
            place, name, pa.array([[65_535, 1, 1]] * n, pa.list_(pa.uint16()))
        ),
        "empty lists": lambda: table.set_column(
            place, name, pa.array([[]] * n, pa.list_(pa.uint16()))
        ),
        "rows": lambda: table.slice(0, n // 2),
        "no rows": lambda: table.slice(0, 0),
    }
    how = rng.choice(sorted(lies))
    pq.write_table(lies[how](), path, row_group_size=16, compression="none")
    manifest = path.parents[2] / "manifest.json"
    if manifest.exists():
        told = json.loads(manifest.read_text())
        for split in told["splits"].values():
            for shard in split["shards"]:
                if path.as_posix().endswith(shard["tokens"]["name"]):
                    digest = hashlib.sha256(path.read_bytes()).hexdigest()
                    shard["tokens"] |= {"bytes": path.stat().st_size, "sha256": digest}
        manifest.write_text(json.dumps(told))
    return f"column {name}: {how}"


def place(path: Path, rng: random.Random, decoy: Path) -> str:
    """Put something else where a file or folder should be."""
    how = rng.choice(("folder", "loop", "dangling", "decoy", "fifo", "empty", "gone", "another"))
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    if how == "folder":
        path.mkdir()
    elif how == "loop":
        path.symlink_to(path.name)
    elif how == "dangling":
        path.symlink_to("nowhere")
    elif how == "decoy":
        path.symlink_to(decoy)
    elif how == "fifo":
        os.mkfifo(path)
    elif how == "empty":
        path.touch()
    elif how == "another":
        path.write_bytes(
            rng.choice((b"\x89HDF\r\n\x1a\n", b"PK\x03\x04", b"\x1f\x8b\x08", b"{}", b"\x80\x02}."))
        )
    return f"{path.name}: {how}"


BY_SUFFIX: dict[str, Callable[[Path, random.Random], str]] = {
    ".json": json_file,
    ".zattrs": json_file,
    ".zarray": json_file,
    ".zgroup": json_file,
    ".zmetadata": json_file,
    ".jsonl": text_file,
    ".safetensors": safetensors_file,
    ".tsv": text_file,
    ".csv": text_file,
    ".mtx": text_file,
    ".gz": text_file,
    ".yaml": text_file,
    ".vocab": json_file,
    ".pkl": pickle_file,
    ".pt": torch_file,
    ".pth": torch_file,
    ".ckpt": torch_file,
    ".bin": torch_file,
    ".npy": rows_file,
    ".parquet": parquet_file,
}
"""How a file of a kind is lied in: by the end of its name."""


def can_lie(path: Path) -> bool:
    """Whether there is a lie for a file."""
    return _suffix(path) in BY_SUFFIX and not path.name.endswith(".tar.gz")


def _suffix(path: Path) -> str:
    return path.suffix or path.name


def tell(path: Path, rng: random.Random) -> str:
    """Tell a lie in one file, in place; says which."""
    return f"{path.name}: {BY_SUFFIX[_suffix(path)](path, rng)}"
