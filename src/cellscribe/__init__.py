"""Single cells to vectors.

``embed`` for an AnnData or a file, ``load`` for a model to keep, ``embed_file`` from file to file,
``embed_genes``, ``gene_importance`` and ``enhance`` for genes, ``tokenize``, ``info``;
``import_model`` and ``export_model`` for published models, ``train`` for new ones; ``finetune`` and
``annotate`` for labels; ``evaluate`` to judge models, ``perturb`` to ask them what a gene does;
``build_corpus`` and ``open_corpus`` for training stores; ``sample`` gives a few hundred real cells
to try them on. Everything is imported when first used.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cellscribe.api import (
        embed,
        embed_file,
        export_model,
        import_model,
        info,
        sample,
        tokenize,
        train,
    )
    from cellscribe.config import (
        AnnotateOptions,
        EmbedOptions,
        EvaluateOptions,
        FinetuneOptions,
        PerturbOptions,
    )
    from cellscribe.corpus.build import build_corpus
    from cellscribe.corpus.store import open_corpus
    from cellscribe.errors import InputError
    from cellscribe.genes import embed_genes, enhance, gene_importance
    from cellscribe.inference.embedder import Embedder, load
    from cellscribe.inference.perturb import perturb
    from cellscribe.judging import evaluate
    from cellscribe.labels import annotate, annotate_file, finetune

__all__ = [
    "AnnotateOptions",
    "EmbedOptions",
    "Embedder",
    "EvaluateOptions",
    "FinetuneOptions",
    "InputError",
    "PerturbOptions",
    "annotate",
    "annotate_file",
    "build_corpus",
    "embed",
    "embed_file",
    "embed_genes",
    "enhance",
    "evaluate",
    "export_model",
    "finetune",
    "gene_importance",
    "import_model",
    "info",
    "load",
    "open_corpus",
    "perturb",
    "sample",
    "tokenize",
    "train",
]

_HOMES = {
    "AnnotateOptions": "cellscribe.config",
    "EmbedOptions": "cellscribe.config",
    "Embedder": "cellscribe.inference.embedder",
    "EvaluateOptions": "cellscribe.config",
    "FinetuneOptions": "cellscribe.config",
    "InputError": "cellscribe.errors",
    "PerturbOptions": "cellscribe.config",
    "annotate": "cellscribe.labels",
    "annotate_file": "cellscribe.labels",
    "build_corpus": "cellscribe.corpus.build",
    "embed": "cellscribe.api",
    "embed_file": "cellscribe.api",
    "embed_genes": "cellscribe.genes",
    "enhance": "cellscribe.genes",
    "evaluate": "cellscribe.judging",
    "export_model": "cellscribe.api",
    "finetune": "cellscribe.labels",
    "gene_importance": "cellscribe.genes",
    "import_model": "cellscribe.api",
    "info": "cellscribe.api",
    "load": "cellscribe.inference.embedder",
    "open_corpus": "cellscribe.corpus.store",
    "perturb": "cellscribe.inference.perturb",
    "sample": "cellscribe.api",
    "tokenize": "cellscribe.api",
    "train": "cellscribe.api",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("cellscribe")
    if name not in _HOMES:
        raise AttributeError(f"module 'cellscribe' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
