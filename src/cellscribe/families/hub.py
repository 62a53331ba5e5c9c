"""Models of the Hugging Face hub: which files of a repository an import needs, and fetching them.

A repository can hold several models, logs and optimizer states; only the model that is wanted and
the tables of genes are downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from cellscribe.errors import InputError
from cellscribe.families.source import first_line
from cellscribe.families.weights import SHOWN

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
"""A repository's id."""
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".nemo", ".distcp")
NOT_WEIGHTS = re.compile(r"(optimizer|scheduler|training_args|rng_state|scaler).*")
"""Files of a training run that look like weights."""
GENES = re.compile(
    r".*(token_dictionary|gene_median_dictionary|gene_name_id_dict|ensembl_mapping_dict).*\.pkl"
    r"|.*medians\.json|.*geneformer\.vocab"
)
"""Tables of genes, which may lie in other folders than the model."""
OURS = ("SHA256SUMS", "training_cells.npy")
"""Files of a model directory of ours, besides texts and weights."""
TEXTS = (".json", ".tsv", ".txt", ".md", ".yaml")


def is_repository(source: str | Path) -> bool:
    """Whether a source could be the id of a repository."""
    return REPOSITORY.fullmatch(str(source)) is not None


def wanted_files(files: Sequence[str], subfolder: str | None, source: str) -> list[str]:
    """Choose the files of a repository that an import of one model needs.

    Parameters
    ----------
    files
        All paths in the repository.
    subfolder
        Folder of the model, if a user names one.
    source
        The repository, for messages.

    Raises
    ------
    InputError
        It holds several models in folders and none at its top, or nothing in `subfolder`.
    """
    models = sorted({str(PurePosixPath(file).parent) for file in files if _is_weights(file)})
    folder = "." if subfolder is None else str(PurePosixPath(subfolder))
    if subfolder is not None and not any(file.startswith(f"{folder}/") for file in files):
        there = sorted({file.partition("/")[0] for file in files if "/" in file})
        raise InputError(
            f"{source}: no folder {first_line(subfolder)} (--subfolder) in it; it has "
            f"{', '.join(there[:SHOWN]) or 'no folders'}"
        )
    if subfolder is None and models and "." not in models:
        tops = sorted({model.removesuffix("/weights") for model in models})
        if len(tops) > 1:
            more = ", ..." if len(tops) > SHOWN else ""
            raise InputError(
                f"{source}: holds {len(tops):,} models, {', '.join(tops[:SHOWN])}{more}; choose "
                f"one by --subfolder {tops[0]}"
            )
        folder = tops[0]
    return [file for file in files if GENES.fullmatch(file) or _belongs(file, folder)]


def _is_weights(file: str) -> bool:
    name = PurePosixPath(file).name
    return name.endswith(WEIGHTS) and NOT_WEIGHTS.fullmatch(name) is None


def _belongs(file: str, folder: str) -> bool:
    """Whether a file is the model's of a folder: in it, or in those of NeMo within it."""
    parent = str(PurePosixPath(file).parent)
    within = "" if folder == "." else f"{folder}/"
    if parent not in (folder, f"{within}context", f"{within}weights", f"{within}models"):
        return False
    name = PurePosixPath(file).name
    return _is_weights(file) or file.endswith(TEXTS) or name in (".metadata", *OURS)


def download(source: str, subfolder: str | None, revision: str | None) -> Path:
    """Download what an import needs of a repository; its folder here.

    Raises
    ------
    InputError
        ``huggingface_hub`` is not installed, there is no such repository or revision, or it cannot
        be reached and has not been downloaded before.
    """
    try:
        import huggingface_hub as hub
    except ImportError:
        raise InputError(
            f"{source}: no such file or folder; if it is a Hugging Face repository, install "
            'what downloads it: pip install "cellscribe[hub]"'
        ) from None
    try:
        files = hub.HfApi().list_repo_files(source, revision=revision)
        chosen = wanted_files(files, subfolder, source)
        return Path(hub.snapshot_download(source, revision=revision, allow_patterns=chosen))
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001  (clients of HTTP raise errors of many kinds)
        if (reason := _refused(error, source, revision)) is not None:
            raise InputError(reason) from None
        return _downloaded_before(hub, source, revision, error)


def _refused(error: Exception, source: str, revision: str | None) -> str | None:
    """Say what the hub answered; None if it did not answer at all."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    page = f"https://huggingface.co/{source}"
    if "GatedRepoError" in kinds:
        return f"{source}: its makers ask for consent first; give it at {page}, then hf auth login"
    if "RevisionNotFoundError" in kinds:
        return f"{source}: no revision {first_line(revision)} (--revision); see {page}/tree/main"
    if "RepositoryNotFoundError" in kinds:
        return (
            f"{source}: neither here nor at Hugging Face, or not public; check the name, and for a "
            "private one hf auth login"
        )
    if "HFValidationError" in kinds:
        return f"{source}: no such file or folder, and no name that Hugging Face has"
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return f"{error.filename} cannot be written ({error.strerror}); set HF_HOME elsewhere"
    return None


def _downloaded_before(hub: Any, source: str, revision: str | None, error: Exception) -> Path:
    """Take what an earlier import downloaded, where the hub cannot be reached."""
    try:
        return Path(hub.snapshot_download(source, revision=revision, local_files_only=True))
    except Exception:  # noqa: BLE001  (as above; the reason is the first error's)
        kind = type(error).__name__
        raise InputError(
            f"{source}: neither here nor downloaded before, and Hugging Face cannot be reached "
            f"({'HF_HUB_OFFLINE is set' if 'Offline' in kind else kind}); download it where there "
            "is a network, and give its folder"
        ) from None
