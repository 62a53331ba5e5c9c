"""Single cells to vectors.

``embed`` for an AnnData or a file, ``load`` for a model to keep, ``embed_file`` from file to file,
``embed_files``, ``tokenize_files`` and ``collect`` for an atlas of many,
``embed_genes``, ``gene_importance`` and ``enhance`` for genes, ``tokenize``, ``info``;
``import_model`` and ``export_model`` for published models, ``train`` for new ones and
``report_runs`` for their curves; ``finetune`` and ``annotate`` for labels,
``build_index``, ``add_to_index`` and ``search`` for an index of labelled cells; ``evaluate`` to
compare models, ``perturb`` to delete or promote genes; ``build_corpus`` and ``open_corpus`` for
training stores; ``explore`` for a page to look around in; ``CellEmbedder`` is a model as a step
of scikit-learn; ``sample`` gives a few hundred real cells. Everything is imported when first used.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from types import FunctionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cellscribe.api.annotate import annotate, annotate_file
    from cellscribe.api.atlas import collect, embed_files, tokenize_files
    from cellscribe.api.corpus import build_corpus, corpus_card, download_census, open_corpus
    from cellscribe.api.embed import embed, embed_file
    from cellscribe.api.enhance import enhance, enhance_file
    from cellscribe.api.estimator import CellEmbedder
    from cellscribe.api.evaluate import evaluate
    from cellscribe.api.explore import explore
    from cellscribe.api.finetune import finetune
    from cellscribe.api.genes import embed_genes, embed_genes_file, gene_importance
    from cellscribe.api.index import (
        add_to_index,
        build_index,
        index_info,
        search,
        search_file,
    )
    from cellscribe.api.models import export_model, import_model, info
    from cellscribe.api.perturb import perturb, perturb_file
    from cellscribe.api.report import report_runs
    from cellscribe.api.sample import sample
    from cellscribe.api.tokenize import tokenize
    from cellscribe.api.train import train
    from cellscribe.config import (
        AddOptions,
        AnnotateOptions,
        BuildOptions,
        CensusOptions,
        EmbedOptions,
        EnhanceOptions,
        EvaluateOptions,
        ExploreOptions,
        ExportOptions,
        FinetuneOptions,
        GenesOptions,
        ImportOptions,
        IndexOptions,
        ModelConfig,
        ModelOptions,
        PerturbOptions,
        QueryOptions,
        ShardOptions,
        SplitOptions,
        TokenizeOptions,
        TrainOptions,
    )
    from cellscribe.corpus.store import Corpus
    from cellscribe.errors import InputError
    from cellscribe.inference.embedder import Embedder, load

__all__ = [
    "AddOptions",
    "AnnotateOptions",
    "BuildOptions",
    "CellEmbedder",
    "CensusOptions",
    "Corpus",
    "EmbedOptions",
    "Embedder",
    "EnhanceOptions",
    "EvaluateOptions",
    "ExploreOptions",
    "ExportOptions",
    "FinetuneOptions",
    "GenesOptions",
    "ImportOptions",
    "IndexOptions",
    "InputError",
    "ModelConfig",
    "ModelOptions",
    "PerturbOptions",
    "QueryOptions",
    "ShardOptions",
    "SplitOptions",
    "TokenizeOptions",
    "TrainOptions",
    "add_to_index",
    "annotate",
    "annotate_file",
    "build_corpus",
    "build_index",
    "collect",
    "corpus_card",
    "download_census",
    "embed",
    "embed_file",
    "embed_files",
    "embed_genes",
    "embed_genes_file",
    "enhance",
    "enhance_file",
    "evaluate",
    "explore",
    "export_model",
    "finetune",
    "gene_importance",
    "import_model",
    "index_info",
    "info",
    "load",
    "open_corpus",
    "perturb",
    "perturb_file",
    "report_runs",
    "sample",
    "search",
    "search_file",
    "tokenize",
    "tokenize_files",
    "train",
]

_HOMES = {
    "AddOptions": "cellscribe.config",
    "AnnotateOptions": "cellscribe.config",
    "BuildOptions": "cellscribe.config",
    "CellEmbedder": "cellscribe.api.estimator",
    "CensusOptions": "cellscribe.config",
    "Corpus": "cellscribe.corpus.store",
    "EmbedOptions": "cellscribe.config",
    "Embedder": "cellscribe.inference.embedder",
    "EnhanceOptions": "cellscribe.config",
    "EvaluateOptions": "cellscribe.config",
    "ExploreOptions": "cellscribe.config",
    "ExportOptions": "cellscribe.config",
    "FinetuneOptions": "cellscribe.config",
    "GenesOptions": "cellscribe.config",
    "ImportOptions": "cellscribe.config",
    "IndexOptions": "cellscribe.config",
    "InputError": "cellscribe.errors",
    "ModelConfig": "cellscribe.config",
    "ModelOptions": "cellscribe.config",
    "PerturbOptions": "cellscribe.config",
    "QueryOptions": "cellscribe.config",
    "ShardOptions": "cellscribe.config",
    "SplitOptions": "cellscribe.config",
    "TokenizeOptions": "cellscribe.config",
    "TrainOptions": "cellscribe.config",
    "add_to_index": "cellscribe.api.index",
    "annotate": "cellscribe.api.annotate",
    "annotate_file": "cellscribe.api.annotate",
    "build_corpus": "cellscribe.api.corpus",
    "build_index": "cellscribe.api.index",
    "collect": "cellscribe.api.atlas",
    "corpus_card": "cellscribe.api.corpus",
    "download_census": "cellscribe.api.corpus",
    "embed": "cellscribe.api.embed",
    "embed_file": "cellscribe.api.embed",
    "embed_files": "cellscribe.api.atlas",
    "embed_genes": "cellscribe.api.genes",
    "embed_genes_file": "cellscribe.api.genes",
    "enhance": "cellscribe.api.enhance",
    "enhance_file": "cellscribe.api.enhance",
    "evaluate": "cellscribe.api.evaluate",
    "explore": "cellscribe.api.explore",
    "export_model": "cellscribe.api.models",
    "finetune": "cellscribe.api.finetune",
    "gene_importance": "cellscribe.api.genes",
    "import_model": "cellscribe.api.models",
    "index_info": "cellscribe.api.index",
    "info": "cellscribe.api.models",
    "load": "cellscribe.inference.embedder",
    "open_corpus": "cellscribe.api.corpus",
    "perturb": "cellscribe.api.perturb",
    "perturb_file": "cellscribe.api.perturb",
    "report_runs": "cellscribe.api.report",
    "sample": "cellscribe.api.sample",
    "search": "cellscribe.api.index",
    "search_file": "cellscribe.api.index",
    "tokenize": "cellscribe.api.tokenize",
    "tokenize_files": "cellscribe.api.atlas",
    "train": "cellscribe.api.train",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("cellscribe")
    if name not in _HOMES:
        raise AttributeError(f"module 'cellscribe' has no attribute {name!r}")
    found = getattr(importlib.import_module(_HOMES[name]), name)
    if isinstance(found, FunctionType):
        from cellscribe.errors import boundary
        from cellscribe.notebook import with_bar

        found = boundary(with_bar(found))
    # found once: from here on it is an attribute like any other
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
