"""The command line: parse, call one function, print. One file a family of verbs."""

from cellscribe.cli import annotate, bench, corpus, embed, evaluate, models, report, train
from cellscribe.cli.app import app, main

__all__ = [
    "annotate",
    "app",
    "bench",
    "corpus",
    "embed",
    "evaluate",
    "main",
    "models",
    "report",
    "train",
]
