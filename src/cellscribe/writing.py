"""Files that appear whole or not at all, what they may replace, and disk errors as one line.

``--overwrite`` replaces what cellscribe could have written: a file by a file; a folder by a folder
if it is a zarr store or a model and holds nothing else (`foreign_in`). A link is replaced itself,
and what it points to stays.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cellscribe.errors import InputError

FILES = (".npy", ".h5ad", ".parquet", ".csv", ".html", ".png", ".json", ".md")
"""Endings of outputs that are files."""
MODEL_FILES = frozenset(
    {
        *("config.json", "model.safetensors", "genes.tsv", "README.md", "SHA256SUMS"),
        *("gene_ids.tsv",),
        *("head.json", "head.safetensors", "components.safetensors", "training_cells.npy"),
        *("metrics.json", "report.html", "loss.png"),
    }
)
"""Files of a model's folder, see `model.checkpoint`, `model.heads`, `corpus.components`,
`cells.synonyms`."""
EXPORTED_FILES = frozenset(
    f"{name}.pkl"
    for name in (
        *("token_dictionary", "gene_median_dictionary"),
        *("gene_name_id_dict", "ensembl_mapping_dict"),
    )
)
"""Files that an export has besides, see `families.geneformer.export`."""
ZARR_METADATA = frozenset({"zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata"})
NO_ONES = frozenset({".DS_Store"})
"""Files that a desktop leaves in any folder."""
MANY = 5
"""Names that a message lists."""
LONGEST_SUFFIX = len("..partial-4194304.partial-4194304")
"""Bytes that names of files on their way have more than the output's; numbers of processes go up to
2**22."""
ADVICE = {
    errno.ENOENT: "its folder was moved or removed meanwhile; run the command again",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EACCES: "ask its owner, or write elsewhere",
    errno.EPERM: "ask its owner, or write elsewhere",
    errno.EROFS: "write elsewhere",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}
"""What helps where the disk is not full."""
NUMBER = re.compile(r"(?:errno = |os error |code: )(\d+)")
"""How HDF5 and safetensors put the system's number into their own text."""


class OutputError(InputError):
    """The result cannot be written: disk full, no permission."""


def remove(path: Path) -> None:
    """Remove a file or a folder of ours, if it is there; a link goes, what it points to stays."""
    if not path.is_dir() or path.is_symlink():
        # where something above it is no folder, it is not there either
        with suppress(NotADirectoryError):
            path.unlink(missing_ok=True)
        return
    try:
        shutil.rmtree(path)
    except PermissionError:
        # a copy of a store that may only be read
        make_writable(path)
        shutil.rmtree(path)


def make_writable(path: Path) -> None:
    """Let the owner of a file, or of a folder with all it holds, write to it."""
    here = path.lstat().st_mode
    if stat.S_ISREG(here):
        path.chmod(stat.S_IMODE(here) | stat.S_IRUSR | stat.S_IWUSR)
    elif stat.S_ISDIR(here):
        path.chmod(stat.S_IMODE(here) | stat.S_IRWXU)
        for inside in path.iterdir():
            make_writable(inside)


def check_target(
    out: Path, source: Path | None, *, overwrite: bool, is_folder: bool = False
) -> None:
    """Refuse a target that could lose something or cannot be written.

    Parameters
    ----------
    out
        The output.
    source
        The input.
    overwrite
        Whether an output that is there may be replaced.
    is_folder
        Whether the output is a folder; a ``.zarr`` always is.

    Raises
    ------
    InputError
        See `check_place` and `check_taken`.
    """
    check_place(out, source)
    check_taken(out, overwrite=overwrite, is_folder=is_folder)


def check_place(out: Path, source: Path | None) -> None:
    """Refuse a place where nothing can be written, or nothing should be.

    Raises
    ------
    InputError
        `out` is the input itself, lies in it or around it, has too long a name, or its folder is
        not there or not writable.
    """
    try:
        if source is not None:
            here, there = out.resolve(), Path(source).resolve()
            if here == there or (out.exists() and there.exists() and out.samefile(there)):
                raise InputError(f"{out} is the input itself; name another output")
            if there in here.parents:
                raise InputError(f"{out} lies inside the input {source}; name another output")
            if here in there.parents:
                raise InputError(f"{out} contains the input {source}; name another output")
        folder = out.parent
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; make it first")
        check_name(out)
    except (OSError, RuntimeError) as error:  # RuntimeError: links that go round, Python 3.11
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{out} cannot be an output: {reason}; choose another name") from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{str(out)!r} cannot be an output: {error}; choose another") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{folder} is not writable; write somewhere else")


def check_name(out: Path) -> None:
    """Refuse an output whose name leaves no room for those that it has while it is written.

    Raises
    ------
    InputError
        The name is too long for the file system.
    """
    room = os.pathconf(out.parent, "PC_NAME_MAX") - LONGEST_SUFFIX
    if len(os.fsencode(out.name)) > room:
        raise InputError(
            f"{out}: the name is too long, for while it is written longer ones are needed; choose "
            f"one of at most {room} bytes"
        )


def check_taken(out: Path, *, overwrite: bool, is_folder: bool = False) -> None:
    """Refuse to replace what is there, unless it may be and cellscribe could have written it.

    Raises
    ------
    InputError
        `out` exists without `overwrite`, is of another kind, or holds files of someone else.
    """
    if not os.path.lexists(out):
        return
    if not overwrite:
        raise InputError(f"{out} exists already; give --overwrite to replace it, or another name")
    if out.is_symlink():
        return
    is_folder = is_folder or out.suffix == ".zarr"
    if out.is_dir():
        if not is_folder and out.suffix in FILES:
            raise InputError(f"{out} is a folder, which no file replaces; give another name")
        _refuse_foreign(out)
    elif not out.is_file():
        raise InputError(f"{out} is no ordinary file; give another name")
    elif is_folder:
        raise InputError(f"{out} is a file, which no folder replaces; give another name")


def _refuse_foreign(folder: Path) -> None:
    foreign = foreign_in(folder)
    if foreign:
        raise InputError(
            f"{folder} is not replaced: it holds {', '.join(foreign)}, which cellscribe did not "
            "write; move that away, or give another name"
        )


def foreign_in(folder: Path) -> list[str]:
    """List the first things in a folder that do not belong to a zarr store or a model.

    Parameters
    ----------
    folder
        A folder; links in it are foreign.

    Returns
    -------
    list of str
        Paths in the folder; empty if it may be replaced.
    """
    # os.walk would follow nothing either, but it knows nothing of what belongs where
    found = _foreign_in_zarr(folder) if _zarr_node(folder) else _foreign_in_model(folder)
    first = [path for _, path in zip(range(MANY + 1), found, strict=False)]
    names = [str(path.relative_to(folder)) for path in first]
    return names[:MANY] + ["..."] * (len(names) > MANY)


def _foreign_in_model(folder: Path) -> Iterator[Path]:
    inside = sorted(folder.iterdir())
    names = {path.name for path in inside}
    exported = names >= EXPORTED_FILES
    ours = exported or _says_cellscribe(folder / "config.json")
    known = MODEL_FILES | EXPORTED_FILES if ours else frozenset()
    for path in inside:
        if path.is_symlink() or not path.is_file() or path.name not in known | NO_ONES:
            yield path


def _says_cellscribe(path: Path) -> bool:
    """Whether a ``config.json`` is of a model of ours."""
    try:
        with path.open(encoding="utf-8") as file:
            return "cellscribe" in json.loads(file.read(1 << 24))
    except (OSError, ValueError, RecursionError, TypeError):
        return False


def _zarr_node(folder: Path) -> str:
    """Tell an "array" of a zarr store from a "group"; "" for any other folder."""
    if (folder / ".zarray").is_file():
        return "array"
    try:
        with (folder / "zarr.json").open(encoding="utf-8") as file:
            return "array" if json.loads(file.read(1 << 24))["node_type"] == "array" else "group"
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return "group" if (folder / ".zgroup").is_file() else ""


def _foreign_in_zarr(folder: Path, kind: str = "") -> Iterator[Path]:
    """Walk a node of a store, or with `kind` "chunks" a folder of an array's chunks."""
    kind = kind or _zarr_node(folder)
    chunk = re.compile({"array": r"c|(c\.)?\d+(\.\d+)*", "chunks": r"\d+"}.get(kind, "(?!)"))
    for path in sorted(folder.iterdir()):
        is_chunk = chunk.fullmatch(path.name)
        if path.is_symlink():
            yield path
        elif path.is_dir():
            if is_chunk:
                yield from _foreign_in_zarr(path, "chunks")
            elif kind == "group" and _zarr_node(path):
                yield from _foreign_in_zarr(path)
            else:
                yield path
        elif not is_chunk and (kind == "chunks" or path.name not in ZARR_METADATA | NO_ONES):
            yield path


@contextmanager
def disk_errors(
    what: Path | str, fix: str = "free some space or write elsewhere"
) -> Iterator[None]:
    """Turn the errors of a disk into one line.

    Parameters
    ----------
    what
        What is written.
    fix
        What helps if the disk is full; other errors have their own advice.
    """
    try:
        yield
    except Exception as error:
        number = _number(error)
        if number is None:
            raise
        if number in (errno.ENOSPC, errno.EDQUOT):
            reason = "the disk is full"
        else:
            fix = ADVICE.get(number, "write elsewhere")
            reason = os.strerror(number) if number else str(error)
        raise OutputError(f"{what} cannot be written: {reason}; {fix}") from error


def _number(error: Exception) -> int | None:
    """The system's number of a disk's error, 0 if it has none; None for any other error."""
    if not isinstance(error, OSError) and type(error).__name__ != "SafetensorError":
        return None
    number = getattr(error, "errno", None)
    if number:
        return int(number)
    packed = NUMBER.search(str(error))
    if packed:
        return int(packed[1])
    return 0 if isinstance(error, OSError) else None


@contextmanager
def writing(out: Path) -> Iterator[Path]:
    """Give a path next to `out` to write to; at the end it takes `out`'s place, or is removed."""
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    try:
        with disk_errors(out):
            yield partial
            replace(partial, out)
    finally:
        remove(partial)


def replace(partial: Path, out: Path) -> None:
    """Put `partial` in `out`'s place; an old folder cannot be replaced at once: it steps aside.

    Raises
    ------
    InputError
        `out` is a folder that holds something else than a zarr store or a model.
    """
    if out.is_dir() and not out.is_symlink():
        # looked at again, for hours may lie between
        _refuse_foreign(out)
    elif not (out.is_symlink() and partial.is_dir()):
        os.replace(partial, out)
        return
    aside = out.with_name(f".{out.name}.replaced-{os.getpid()}")
    os.rename(out, aside)
    try:
        os.rename(partial, out)
    except BaseException:
        os.rename(aside, out)
        raise
    remove(aside)


def hash_of(path: Path) -> str:
    """SHA-256 of a file, or of a folder's files with their names; OSError if there is neither."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for part in sorted(path.rglob("*")):
        if part.is_file():
            digest.update(f"{part.relative_to(path).as_posix()}\0{hash_of(part)}\n".encode())
    return digest.hexdigest()


def size_of(path: Path) -> int:
    """Bytes of a file or of a folder's files."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that it has its name only when complete."""
    with writing(path) as partial:
        partial.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
