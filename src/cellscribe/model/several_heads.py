"""Several heads on one vector of a cell, and a head that gives a number.

They stand in the same two files as one head of labels, under version 2 of the header: ``heads`` is
a list, what they have in common stands next to it, and the tensors of head ``i`` begin with ``i.``.
A model of one head of labels is written as ever.

Letters: ``B`` cells, ``C`` labels, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import numpy as np
import numpy.typing as npt

from cellscribe.config.checked import Between, Share, check_value
from cellscribe.errors import InputError
from cellscribe.model.heads import (
    AGAIN,
    FORMAT,
    HEADER,
    WEIGHTS,
    Head,
    check_labels,
    has_head,
    load_head,
    pop_linear,
    read_head_header,
    read_tensors,
    save_head,
    write_head,
)

SHARED = ("mode", "group", "model", "sources", "epochs", "options", "trials", "cellscribe")
"""What is the same for all heads of a model."""

Floats = npt.NDArray[np.floating]


class _LabelKeys(TypedDict):
    kind: Literal["labels"]
    label: str
    labels: list[str]
    temperature: Annotated[float, Between(above=0.0)]
    threshold: Share


class _NumberKeys(TypedDict):
    kind: Literal["number"]
    target: str
    half_width: Annotated[float, Between(least=0.0)]
    coverage: Share
    range: tuple[float, float]


KEYS: dict[str, type] = {"labels": _LabelKeys, "number": _NumberKeys}
"""What is read again of each kind of head."""


@dataclass(frozen=True, kw_only=True)
class NumberHead:
    """A linear head that gives a number and an interval around it."""

    target: str
    """Name of the number."""
    weight: npt.NDArray[np.float32]
    """``[1, D]``."""
    bias: npt.NDArray[np.float32]
    """``[1]``."""
    half_width: float
    """Of the interval, in the unit of the number."""
    coverage: float
    """Share of cells of a new group that the interval is meant to hold."""
    range: tuple[float, float]
    """Lowest and highest value among the cells that it learnt from."""
    about: dict[str, Any]
    """Its origin, and how it fared on held-out cells."""

    def predict(self, vectors: Floats) -> npt.NDArray[np.float64]:
        """Numbers, ``[B, D]`` to ``[B]``."""
        weight = self.weight[0].astype(np.float64)
        return np.asarray(vectors, np.float64) @ weight + float(self.bias[0])


def save_heads(directory: Path, heads: Sequence[Head | NumberHead]) -> None:
    """Write the heads of a model into its directory."""
    if len(heads) == 1 and isinstance(heads[0], Head):
        save_head(directory, heads[0])
        return
    tensors: dict[str, npt.NDArray[np.float32]] = {}
    headers: list[dict[str, Any]] = []
    for number, head in enumerate(heads):
        own = {name: value for name, value in head.about.items() if name not in SHARED}
        tensors |= {f"{number}.weight": head.weight, f"{number}.bias": head.bias}
        if isinstance(head, Head):
            tensors |= {f"{number}.{name}": tensor for name, tensor in head.tensors.items()}
            headers.append(
                {
                    "kind": "labels",
                    "label": head.about["label"],
                    "labels": head.labels,
                    "temperature": head.temperature,
                    "threshold": head.threshold,
                    **own,
                }
            )
        else:
            headers.append(
                {
                    "kind": "number",
                    "target": head.target,
                    "half_width": head.half_width,
                    "coverage": head.coverage,
                    "range": list(head.range),
                    **own,
                }
            )
    shared = {name: heads[0].about[name] for name in SHARED if name in heads[0].about}
    write_head(directory, {"format": FORMAT, "version": 2, "heads": headers, **shared}, tensors)


def load_heads(directory: Path) -> list[Head | NumberHead]:
    """Read all heads of a model that labels cells, or gives a number of each.

    Raises
    ------
    InputError
        The model has no head, its head labels genes, or is damaged.
    """
    directory = Path(directory)
    if not has_head(directory):
        return [load_head(directory)]  # which says what to do
    about = read_head_header(directory)
    if about["version"] == 1:
        return [load_head(directory)]
    path = directory / HEADER
    tensors = read_tensors(directory / WEIGHTS)
    shared = {name: about[name] for name in SHARED if name in about}
    heads = [
        _head_of(dict(each), number, tensors, shared, path)
        for number, each in enumerate(about["heads"])
    ]
    names = [name_of(head) for head in heads]
    if not heads or len(set(names)) < len(names) or tensors:
        raise InputError(f"{directory}: {HEADER} and {WEIGHTS} belong to different models")
    return heads


def _head_of(
    own: dict[str, Any],
    number: int,
    tensors: dict[str, npt.NDArray[np.float32]],
    shared: dict[str, Any],
    path: Path,
) -> Head | NumberHead:
    """Make a head of its part of the header, and of its tensors, which are taken out."""
    try:
        keys = KEYS.get(str(own.get("kind")), _LabelKeys)
        own |= check_value(keys, own, f"heads[{number}]")
    except InputError as error:
        raise InputError(f"{path}: not a head that this version reads: {error}; {AGAIN}") from None
    prefix = f"{number}."
    weight, bias = pop_linear(tensors, prefix, path.parent / WEIGHTS)
    kind = own.pop("kind")
    if kind == "number":
        if len(weight) != 1:
            raise InputError(f"{path.parent}: {HEADER} and {WEIGHTS} belong to different models")
        taken = {name: own.pop(name) for name in _NumberKeys.__annotations__ if name != "kind"}
        return NumberHead(weight=weight, bias=bias, about=own | shared, **taken)
    labels = own.pop("labels")
    check_labels(labels, path)
    if len(weight) != len(labels):
        raise InputError(f"{path.parent}: {HEADER} and {WEIGHTS} belong to different models")
    kept = [name for name in tensors if name.startswith(prefix)]
    return Head(
        labels=labels,
        weight=weight,
        bias=bias,
        temperature=own.pop("temperature"),
        threshold=own.pop("threshold"),
        about=own | shared,
        tensors={name.removeprefix(prefix): tensors.pop(name) for name in kept},
    )


def name_of(head: Head | NumberHead) -> str:
    """Name of the column that a head has learnt."""
    return head.target if isinstance(head, NumberHead) else str(head.about.get("label", ""))
