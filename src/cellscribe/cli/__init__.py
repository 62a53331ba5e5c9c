"""The command line: parse, call one function, print. One file a family of verbs."""

from cellscribe.cli import bench, cells, corpus
from cellscribe.cli.app import app, main

__all__ = ["app", "bench", "cells", "corpus", "main"]
