"""Options of the verbs on models: import and export."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cellscribe.config.shared_options import OutputOptions


@dataclass(frozen=True, kw_only=True)
class ImportOptions(OutputOptions):
    """How `cellscribe import` works."""

    genes: Path | None = None
    """Gene list or dictionaries that are not in SRC itself; a refusal says when it is needed."""
    subfolder: str | None = None
    """Folder in SRC that holds the model, where SRC has several."""
    labels: Path | None = None
    """Names of a classifier's classes, where config.json has none: .json or .pkl."""
    revision: str | None = None
    """Branch, tag or commit of a Hugging Face repository."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions(OutputOptions):
    """How `cellscribe export` works."""

    format: Literal["hf"] = "hf"
    """hf: a Hugging Face BertForMaskedLM with the dictionaries of Geneformer's own tools."""
