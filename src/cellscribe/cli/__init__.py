"""The command line: parse, call one function, print. One file a family of verbs."""

from cellscribe.cli import annotation, bench, cells, corpus, evaluation, models, report, training
from cellscribe.cli.app import app, main

__all__ = [
    "annotation",
    "app",
    "bench",
    "cells",
    "corpus",
    "evaluation",
    "main",
    "models",
    "report",
    "training",
]
