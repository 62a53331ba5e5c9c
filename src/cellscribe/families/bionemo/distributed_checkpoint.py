"""Weights of a ``torch_dist`` folder, as Megatron-core and NeMo 2 save them.

The folder holds ``.metadata``, a pickle with the place of every tensor, and ``*.distcp``, the
tensors. The pickle is read by an unpickler that accepts the classes of torch's own metadata and
nothing else. The tensors are read by torch's file reader, in this process alone, and only those
that are needed. Objects among them (optimizer, random states) are pickles too: they are not read.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from cellscribe.errors import InputError
from cellscribe.families.unpickle import AGAIN, PLAIN, Forbidden, RestrictedUnpickler

if TYPE_CHECKING:
    import torch

METADATA = ".metadata"
_CHECKPOINT = "torch.distributed.checkpoint"
_MEGATRON = "megatron.core.dist_checkpointing."
CLASSES = {
    f"{_CHECKPOINT}.metadata": (
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    ),
    f"{_CHECKPOINT}.filesystem": ("_StorageInfo", "_StoragePrefix"),
    f"{_CHECKPOINT}.planner": (
        "BytesIOWriteData",
        "SavePlan",
        "TensorWriteData",
        "WriteItem",
        "WriteItemType",
    ),
    # where torch before 2.3 kept the first two
    "torch.distributed._shard.sharded_tensor.metadata": ("MEM_FORMAT_ENCODING", "TensorProperties"),
    "torch": ("Size",),
    "torch.serialization": ("_get_layout",),
}
"""Module -> what ``.metadata`` may import from it, beside plain containers and dtypes."""
RENAMED = {
    "MCoreMetadata": (f"{_CHECKPOINT}.metadata", "Metadata"),
    "MCoreSavePlan": (f"{_CHECKPOINT}.planner", "SavePlan"),
}
"""Megatron's heirs of torch's classes; they only add fields."""


class _MetadataUnpickler(RestrictedUnpickler):
    """Unpickles torch's description of a distributed checkpoint."""

    allowed = PLAIN | {(module, name) for module, names in CLASSES.items() for name in names}

    def find_class(self, module: str, name: str) -> Any:
        """Import the class that the pickle names, if it is allowed."""
        import torch

        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if module.startswith(_MEGATRON) and name in RENAMED:
            module, name = RENAMED[name]
        if module.partition(".")[0] == "pathlib" and name in ("PosixPath", "PurePosixPath"):
            return PurePosixPath
        return super().find_class(module, name)


def read_metadata(folder: Path) -> Any:
    """Read ``.metadata``: a ``torch.distributed.checkpoint.metadata.Metadata``.

    Raises
    ------
    InputError
        It is missing, damaged, or holds something else than metadata.
    """
    path = folder / METADATA
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); copy the whole folder, this hidden file "
            "too"
        ) from None
    try:
        metadata = _MetadataUnpickler(io.BytesIO(data)).load()
        if not isinstance(metadata.state_dict_metadata, dict):
            raise TypeError("no table of tensors in it")
        if not isinstance(metadata.storage_data, dict):
            raise TypeError("no table of files in it")
    except Forbidden as error:
        raise InputError(
            f"{path}: refused, it holds more than a table of tensors: reading it would import "
            f"{error}; ask its makers for the weights alone"
        ) from None
    except Exception as error:  # noqa: BLE001  (a damaged pickle raises whatever it happens upon)
        raise _damaged(path, error) from None
    return metadata


def read_distributed(folder: Path, wanted: Callable[[str], bool]) -> dict[str, torch.Tensor]:
    """Read tensors of a ``torch_dist`` folder, on the CPU, in the dtype that they are kept in.

    Parameters
    ----------
    folder
        Holds ``.metadata`` and ``*.distcp``.
    wanted
        Whether the tensor of a key is to be read.

    Returns
    -------
    Tensors by key; what is no tensor is not read.

    Raises
    ------
    InputError
        A file is missing, cut short or holds more than tensors.
    """
    import torch
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

    metadata = read_metadata(folder)

    class Reader(checkpoint.FileSystemReader):
        """Torch's reader, with the metadata that is known to be harmless."""

        def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
            return metadata

    tensors = {
        key: torch.empty(entry.size, dtype=entry.properties.dtype)
        for key, entry in metadata.state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata) and wanted(key)
    }
    _check_files(folder, metadata, set(tensors))
    try:
        with warnings.catch_warnings():
            # reading in one process is intended
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
            checkpoint.load(tensors, storage_reader=Reader(folder), no_dist=True)
    except checkpoint.CheckpointException as error:
        raise _damaged(folder, next(iter(error.failures.values()))[0]) from None
    except Exception as error:  # noqa: BLE001  (whatever a damaged file makes torch happen upon)
        raise _damaged(folder, error) from None
    return tensors


def _damaged(path: Path, error: BaseException) -> InputError:
    reason = str(error).strip().partition("\n")[0]
    return InputError(f"{path}: damaged ({reason}); {AGAIN}")


def _check_files(folder: Path, metadata: Any, keys: set[str]) -> None:
    """Refuse a folder whose files are not all there, or shorter than its metadata says."""
    needed: dict[str, int] = {}
    for index, place in metadata.storage_data.items():
        if index.fqn in keys:
            end = place.offset + place.length
            needed[place.relative_path] = max(end, needed.get(place.relative_path, 0))
    for name, size in sorted(needed.items()):
        path = folder / name
        if PurePosixPath(name).name != name:
            raise InputError(f"{folder / METADATA}: names a file outside its folder, {name}")
        if not path.is_file():
            raise InputError(f"{path}: missing; copy or download the whole folder")
        if path.stat().st_size < size:
            raise InputError(
                f"{path}: cut short ({path.stat().st_size:,} of at least {size:,} bytes); {AGAIN}"
            )
