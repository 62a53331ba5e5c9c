"""Former names of flags and of keys in a TOML file, which work until the next release."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cellscribe.callbacks import log_stderr
from cellscribe.config.renamed import RENAMED
from cellscribe.errors import InputError

KINDS = {
    "finetune": "FinetuneOptions",
    "annotate": "AnnotateOptions",
    "evaluate": "EvaluateOptions",
    "perturb": "PerturbOptions",
    "train": "TrainOptions",
}
"""Verb -> its class of options, where a field has a former name."""


def with_new_flags(words: Sequence[str]) -> list[str]:
    """Words of a command line under the names of today; each former name is warned of."""
    former = {_flag(old): _flag(new) for old, new in _names(words[0] if words else "").items()}
    found = []
    for word in words:
        flag, equals, value = word.partition("=")
        if flag in former:
            _warn(flag, former[flag])
            flag = former[flag]
        found.append(f"{flag}{equals}{value}")
    return found


def with_new_keys(tables: dict[str, Any], path: str) -> dict[str, Any]:
    """Tables of a TOML file under the names of today.

    Raises
    ------
    InputError
        A setting is there under both names.
    """
    found: dict[str, Any] = {}
    for verb, table in tables.items():
        former = _names(verb)
        if not isinstance(table, dict) or not former.keys() & table.keys():
            found[verb] = table
            continue
        found[verb] = {}
        for key, value in table.items():
            new = former[key] if key in former else str(key)
            if new != key:
                _warn(f"{path}: {key}", new)
                if new in table:
                    raise InputError(f"{path}: [{verb}] has {key} and {new}; leave out {key}")
            found[verb][new] = value
    return found


def _names(verb: str) -> dict[str, str]:
    return RENAMED[KINDS[verb]] if verb in KINDS else {}


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _warn(old: str, new: str) -> None:
    log_stderr(f"Warning: {old} is now called {new}; the old name goes with the next release.")
