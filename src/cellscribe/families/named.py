"""A model by the name of its repository on the Hugging Face hub.

It is imported once and kept in ``$CELLSCRIBE_CACHE`` (``~/.cache/cellscribe`` if it
is not set), in a folder for each repository, commit and subfolder. The hub is asked which commit a
name means; where it cannot be reached, what was downloaded last is taken.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from pathlib import Path

from cellscribe.callbacks import Log, log_stderr
from cellscribe.config import ImportOptions
from cellscribe.errors import InputError
from cellscribe.families import hub
from cellscribe.writing import disk_errors

NAME = re.compile(rf"({hub.REPOSITORY.pattern})(?:@([^:@]+))?(?::(.+))?")
"""OWNER/NAME, with a revision after @ and a folder of the repository after a colon."""


def local_model(name: str | Path, log: Log = log_stderr) -> str | Path:
    """Directory of a model that is named by its repository; any other name as it is.

    Parameters
    ----------
    name
        A directory, the name of a bundled model, or ``OWNER/NAME[@REVISION][:SUBFOLDER]`` of the
        Hugging Face hub (with the extra ``hub``), which is imported first.
    log
        Called with a line where a model is imported.

    Raises
    ------
    InputError
        The repository cannot be imported.
    """
    found = NAME.fullmatch(str(name))
    if found is None or os.path.lexists(str(name)):
        return name
    try:
        import huggingface_hub  # noqa: F401
    except ImportError:
        return name  # `find_checkpoint` says how to import one
    repository, revision, subfolder = found.groups()
    return _imported(hub.download(repository, subfolder, revision), repository, subfolder, log)


def hub_name(name: str | Path, revision: str | None, subfolder: str | None) -> str | Path:
    """Name a model of the hub with its revision and its folder.

    Raises
    ------
    InputError
        One of the two is given for a model that is no repository.
    """
    if revision is None and subfolder is None:
        return name
    if os.path.lexists(str(name)) or not hub.is_repository(name):
        raise InputError(f"{name} is not of the Hugging Face hub; leave out revision and subfolder")
    return f"{name}{'@' * bool(revision)}{revision or ''}{':' * bool(subfolder)}{subfolder or ''}"


def _imported(snapshot: Path, repository: str, subfolder: str | None, log: Log) -> Path:
    """Directory of an imported model of the hub; imported now if it was not before."""
    folder = snapshot / (subfolder or ".")
    if _is_ours(folder):
        return folder
    parts = [*repository.split("/"), snapshot.name, *(subfolder or "").split("/")]
    kept = _cache() / "--".join(filter(None, parts))
    if _is_ours(kept):
        return kept
    from cellscribe.families.importing import import_model

    made = kept.with_name(f".{kept.name}-{uuid.uuid4().hex}")
    with disk_errors(kept, "set CELLSCRIBE_CACHE elsewhere"):
        kept.parent.mkdir(parents=True, exist_ok=True)
    try:
        import_model(snapshot, made, ImportOptions(subfolder=subfolder), log=log)
        try:
            os.rename(made, kept)
        except OSError:  # another process was as quick
            if not _is_ours(kept):
                raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
    log(f"Kept in {kept}; remove it to import it anew.")
    return kept


def _is_ours(folder: Path) -> bool:
    return (folder / "config.json").is_file() and (folder / "genes.tsv").is_file()


def _cache() -> Path:
    given = os.environ.get("CELLSCRIBE_CACHE")
    if given:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "cellscribe", "models")
