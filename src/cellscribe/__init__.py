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
    from cellscribe.api.annotate import annotate, annotate_file, finetune
    from cellscribe.api.embed import embed, embed_file
    from cellscribe.api.evaluate import evaluate
    from cellscribe.api.genes import embed_genes, enhance, gene_importance
    from cellscribe.api.models import export_model, import_model, info
    from cellscribe.api.sample import sample
    from cellscribe.api.tokenize import tokenize
    from cellscribe.api.train import train
    from cellscribe.config import (
        AnnotateOptions,
        EmbedOptions,
        EvaluateOptions,
        FinetuneOptions,
        PerturbOptions,
    )
    from cellscribe.corpus.build.build import build_corpus
    from cellscribe.corpus.store import open_corpus
    from cellscribe.errors import InputError
    from cellscribe.inference.embedder import Embedder, load
    from cellscribe.perturbation.perturb import perturb

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
    "annotate": "cellscribe.api.annotate",
    "annotate_file": "cellscribe.api.annotate",
    "build_corpus": "cellscribe.corpus.build.build",
    "embed": "cellscribe.api.embed",
    "embed_file": "cellscribe.api.embed",
    "embed_genes": "cellscribe.api.genes",
    "enhance": "cellscribe.api.genes",
    "evaluate": "cellscribe.api.evaluate",
    "export_model": "cellscribe.api.models",
    "finetune": "cellscribe.api.annotate",
    "gene_importance": "cellscribe.api.genes",
    "import_model": "cellscribe.api.models",
    "info": "cellscribe.api.models",
    "load": "cellscribe.inference.embedder",
    "open_corpus": "cellscribe.corpus.store",
    "perturb": "cellscribe.perturbation.perturb",
    "sample": "cellscribe.api.sample",
    "tokenize": "cellscribe.api.tokenize",
    "train": "cellscribe.api.train",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("cellscribe")
    if name not in _HOMES:
        raise AttributeError(f"module 'cellscribe' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
