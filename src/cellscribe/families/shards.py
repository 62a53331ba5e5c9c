"""Weights of Hugging Face's layout: one file, or several with an index that names each tensor's.

Wrappers of training put prefixes before the names (``module.``, ``_orig_mod.``, ``model.``) and the
whole into a table of a run; both are taken off.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from cellscribe.errors import InputError
from cellscribe.families.source import AGAIN, Source, first_line
from cellscribe.families.unpickle import read_tensors, read_torch
from cellscribe.families.weights import SHOWN

if TYPE_CHECKING:
    import torch

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Files of weights as Hugging Face's tools name them, the first one counts."""
INDEX = ".index.json"
WRAPPERS = ("model_state_dict", "state_dict", "model")
"""Keys under which training scripts keep the weights of a whole run's file."""
PREFIX = re.compile(r"^(?:module\.|_orig_mod\.|model\.)+")
"""What DataParallel, torch.compile and Lightning put before the names."""


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read tensors by name, of a file or of all that an index names.

    Raises
    ------
    InputError
        A file is missing or damaged; an index and its files do not fit each other.
    """
    if path.name.endswith(INDEX):
        return _read_shards(path)
    if path.suffix == ".safetensors":
        return read_tensors(path)
    return state_dict(read_torch(path), str(path))


def state_dict(data: Any, where: str) -> dict[str, torch.Tensor]:
    """Take the weights out of what a training script may have put round them.

    Raises
    ------
    InputError
        There is something else than tensors by name.
    """
    import torch

    for key in WRAPPERS:
        if isinstance(data, Mapping) and isinstance(data.get(key), Mapping):
            data = data[key]
    if (
        not isinstance(data, Mapping)
        or not data
        or not all(isinstance(name, str) for name in data)
        or not all(isinstance(tensor, torch.Tensor) for tensor in data.values())
    ):
        raise InputError(f"{where}: not a state dict of tensors; {AGAIN}")
    return dict(data)


def without_prefixes(weights: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Take wrappers' prefixes off the names of tensors.

    Raises
    ------
    InputError
        Two tensors would have one name.
    """
    bare: dict[str, Any] = {}
    for name, tensor in weights.items():
        short = PREFIX.sub("", name)
        if short in bare:
            raise InputError(
                f"{where}: holds {first_line(short)} twice, with and without a wrapper's prefix; "
                "save the model's own state dict"
            )
        bare[short] = tensor
    return bare


def _read_shards(path: Path) -> dict[str, torch.Tensor]:
    data = Source(path).json(path)
    places = data.get("weight_map") if isinstance(data, dict) else None
    if (
        not isinstance(places, dict)
        or not places
        or not all(isinstance(file, str) for file in places.values())
    ):
        raise InputError(f"{path}: no weight_map of tensors and files in it; {AGAIN}")
    files = sorted(set(places.values()))
    for file in files:
        if PurePosixPath(file).name != file or "\\" in file or file in (".", ".."):
            raise InputError(f"{path}: names a file outside its folder, {first_line(file)}")
    missing = [file for file in files if not (path.parent / file).is_file()]
    if missing:
        more = f" and {len(missing) - SHOWN:,} more" if len(missing) > SHOWN else ""
        raise InputError(
            f"{path}: {len(missing):,} of its {len(files):,} files are missing: "
            f"{', '.join(map(first_line, missing[:SHOWN]))}{more}; download all of them"
        )
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        shard = path.parent / file
        found = read_tensors(shard) if shard.suffix == ".safetensors" else None
        found = state_dict(read_torch(shard), str(shard)) if found is None else found
        wanted = {name for name, place in places.items() if place == file}
        if found.keys() != wanted:
            other = min(found.keys() ^ wanted)
            where = "has" if other in found else "lacks"
            raise InputError(
                f"{shard}: {where} {first_line(other)}, against {path.name}; take all files from "
                "one release"
            )
        tensors.update(found)
    return tensors
