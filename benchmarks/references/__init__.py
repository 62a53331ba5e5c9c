"""The published code of each family, run to be compared with ours.

One module a family, each with a class `Peer`: our own text, which imports the family's public
repository from a clone, or a public package. All run on the CPU in float32. Nothing here imports
our own readers of cells, so that a peer's memory is its own.
"""

from __future__ import annotations

import importlib
import sys
import types
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from cellscribe.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData

SYMBOLS = "gene_symbol"
"""Column of ``var`` with gene symbols; the index has Ensembl ids."""


@dataclass(frozen=True, kw_only=True)
class About:
    """What a family's peer is and needs."""

    what: str
    """What is run."""
    repository: str = ""
    """Where to clone it from; empty where a package on its own is the peer."""
    file: str = ""
    """A file that every clone of it has."""
    packages: tuple[tuple[str, str], ...]
    """Packages that it needs: name to import, name to install."""
    batch: int
    """Cells of a batch."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a peer is made from."""

    source: Path
    """The published checkpoint."""
    clone: Path
    """Clone of the family's repository."""
    model: dict[str, Any]
    """Of the imported model, see `benchmarks.families.describe`."""
    tokens: Path
    """Our tokens of the cells, an .npz of tokens, offsets and (or None) values."""
    scratch: Path
    """Folder for files."""


class Peer(Protocol):
    """A family's own code; imports are done when it is made."""

    def load(self) -> None:
        """Load the published checkpoint."""
        ...

    def ready(self, cells: AnnData) -> Any:
        """Cells (raw counts, CSR) in the form that the family's code starts from."""
        ...

    def embed(self, ready: Any) -> npt.NDArray[np.float32]:
        """Vectors ``[B, D]``, tokenised and pooled in the family's own way where it has one."""
        ...

    def compared(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Vectors to compare with ours; of our own tokens where the family's rule leaves a choice.

        Takes what `embed` gave for the cells that our tokens are of.
        """
        ...


ABOUT = {
    "geneformer": About(
        what="transformers.BertModel, padded batches by length, tokens ready made",
        packages=(("transformers", "transformers"),),
        batch=50,
    ),
    "bionemo": About(
        what="process_item and MegatronBioBertModel with Megatron-core's local layers, batches "
        "padded to their longest cell, no logits",
        repository="https://github.com/NVIDIA/bionemo-framework",
        file="sub-packages/bionemo-geneformer/src/bionemo/geneformer/api.py",
        packages=(("megatron", "megatron-core"),),
        batch=32,
    ),
    "scgpt": About(
        what="get_batch_cell_embeddings, torch's transformer layers",
        repository="https://github.com/bowang-lab/scGPT",
        file="scgpt/tasks/cell_emb.py",
        packages=(("scanpy", "scanpy"),),
        batch=64,
    ),
    "scbert": About(
        what="preprocess.py and PerformerLM, cell by cell, mean over genes",
        repository="https://github.com/TencentAILabHealthcare/scBERT",
        file="performer_pytorch/performer_pytorch.py",
        packages=(("einops", "einops"), ("scanpy", "scanpy")),
        batch=1,
    ),
    "scfoundation": About(
        what="get_embedding.py, cell by cell",
        repository="https://github.com/biomap-research/scFoundation",
        file="model/get_embedding.py",
        packages=(("einops", "einops"), ("scanpy", "scanpy")),
        batch=1,
    ),
}


def check_reference(family: str, clone: Path | None) -> None:
    """Refuse a peer that cannot run, before anything is measured.

    Raises
    ------
    InputError
        No such clone, or a package is missing.
    """
    about = ABOUT[family]
    if about.repository and (clone is None or not (clone / about.file).is_file()):
        raise InputError(
            f"--reference {clone}: no {about.file} in it; give a clone of {about.repository}"
        )
    for package, name in about.packages:
        if find_spec(package) is None:
            raise InputError(f"the published code of {family} needs {package}: pip install {name}")


def make_peer(task: Task) -> Peer:
    """Import a family's own code.

    Raises
    ------
    ImportError
        The clone, or a package that it wants, is of another version or not whole.
    """
    module = importlib.import_module(f"benchmarks.references.{task.model['family']}")
    peer: Peer = module.Peer(task)
    return peer


def stand_in(name: str, **attributes: Any) -> types.ModuleType:
    """Put an empty module, or a package past its ``__init__``, where an import will find it."""
    module = types.ModuleType(name)
    vars(module).update(attributes)
    sys.modules[name] = module
    return module


def our_tokens(path: Path) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
    """Tokens and values of each cell, as ours made them; without values for families of ranks."""
    with np.load(path) as file:
        tokens, offsets, values = (file[name] for name in ("tokens", "offsets", "values"))
    return [
        (tokens[first:last].astype(np.int64), values[first:last])
        for first, last in pairwise(offsets)
    ]
