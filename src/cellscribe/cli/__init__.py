"""The command line: parse, call one function, print. One file a verb."""

from cellscribe.cli import (
    annotate,
    atlas,
    bench,
    corpus,
    embed,
    enhance,
    evaluate,
    explore,
    finetune,
    genes,
    index,
    models,
    perturb,
    report,
    tokenize,
    train,
)
from cellscribe.cli.app import app, main
from cellscribe.cli.examples import show_examples

show_examples(app)

__all__ = [
    "annotate",
    "app",
    "atlas",
    "bench",
    "corpus",
    "embed",
    "enhance",
    "evaluate",
    "explore",
    "finetune",
    "genes",
    "index",
    "main",
    "models",
    "perturb",
    "report",
    "tokenize",
    "train",
]
