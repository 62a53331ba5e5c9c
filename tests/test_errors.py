"""The words of errors: on the command line, and in Python."""

from __future__ import annotations

import pytest

from cellscribe.errors import for_python


@pytest.mark.parametrize(
    ("typed", "called"),
    [
        ("use --layer counts", 'use layer="counts"'),
        ("use --layer 'my counts'", 'use layer="my counts"'),
        ("use --layer layers/raw", 'use layer="layers/raw"'),
        ("in a layer named with --layer; values", "in a layer named with layer=...; values"),
        ("name one with --layer: X, umi", "name one with layer=...: X, umi"),
        ("are taken (--counts tpm)", 'are taken (counts="tpm")'),
        ("give --gene-key NAME.", 'give gene_key="NAME".'),
        ("--start and --goal are both", "start=... and goal=... are both"),
        (
            "give --resume to go on, or --overwrite.",
            "give resume=True to go on, or overwrite=True.",
        ),
        ("--n-neighbors 5 or --hidden-layer -2", "n_neighbors=5 or hidden_layer=-2"),
        ("a well-known file--name, and x--y", "a well-known file--name, and x--y"),
    ],
)
def test_flags_are_said_as_keywords_to_who_calls_a_function(typed: str, called: str) -> None:
    assert for_python(typed) == called
