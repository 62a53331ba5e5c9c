"""Which model made the vectors of an index, and a session with that model and no other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellscribe.callbacks import Log
from cellscribe.config import DeviceOptions, IndexOptions, InputOptions, ModelOptions, Options
from cellscribe.errors import InputError
from cellscribe.families.named import local_model
from cellscribe.index.store import Index, MadeBy
from cellscribe.inference.session import Session, open_session
from cellscribe.model.metadata import find_checkpoint

if TYPE_CHECKING:
    from cellscribe.inference.embedder import Embedder

KEYS = {
    "model_hash": ("hash", "weights"),
    "vocabulary_hash": ("vocabulary_hash", "gene table"),
    "pooling": ("pooling", "pooling"),
    "context": ("context", "context"),
}
"""What must be the same: its name in a provenance -> in a header, and in words."""


def made_by(session: Session, name: str, options: Mapping[str, Any]) -> MadeBy:
    """Say what makes the vectors of a session."""
    embedder = session.embedder
    return {
        "name": name,
        "hash": embedder.hash,
        "vocabulary_hash": session.header.table.hash,
        "pooling": embedder.pooling,
        "context": embedder.context,
        "width": embedder.width,
        "options": dict(options),
    }


def check_made_by(found: Mapping[str, Any], wanted: MadeBy, where: str) -> None:
    """Refuse vectors of another model.

    Parameters
    ----------
    found
        Provenance of vectors, as `embed` writes it.
    wanted
        What the index holds.
    where
        Name of the vectors, in messages.

    Raises
    ------
    InputError
        They differ; the message says in what.
    """
    for key, (name, words) in KEYS.items():
        if key not in found:
            raise InputError(
                f"{where}: nothing says which model made its vectors; embed the counts with "
                "cellscribe embed"
            )
        if _plain(found[key]) != wanted[name]:  # type: ignore[literal-required]
            raise InputError(
                f"{where}: vectors of another model than the index ({words} {found[key]}, the "
                f"index's {wanted[name]}); embed with {wanted['name']}"  # type: ignore[literal-required]
            )


@contextmanager
def session_for(
    index: Index, options: Options, model: str | Path | Embedder | None, *, log: Log
) -> Iterator[Session]:
    """Open a session with an index's own model.

    Parameters
    ----------
    index
        An index.
    options
        How counts are read, and the device.
    model
        The model, or where it lies; None for where it lay when the index was built.
    log
        Called with each line that a user should read.

    Raises
    ------
    InputError
        It is another model, or is not there.
    """
    wanted = index.header["model"]
    settings = {
        field.name: getattr(options, field.name)
        for kind in (DeviceOptions, InputOptions)
        for field in fields(kind)
        if hasattr(options, field.name)
    }
    if model is None or isinstance(model, str | Path):
        settings |= {
            field.name: wanted["options"].get(field.name) for field in fields(ModelOptions)
        }
    name = model or wanted["name"]
    if model is None:
        try:
            find_checkpoint(local_model(name))  # type: ignore[arg-type]
        except InputError as error:
            raise InputError(
                f"{error} (the model of {index.folder}; say where it is with --model)"
            ) from None
    with open_session(name, IndexOptions(**settings), log=log) as session:
        made = made_by(session, session.header.name, {})
        found = {key: made[own] for key, (own, _) in KEYS.items()}  # type: ignore[literal-required]
        check_made_by(found, wanted, session.header.name)
        yield session


def _plain(value: Any) -> Any:
    """Give a value of uns as Python has it."""
    return value.item() if hasattr(value, "item") else value
