"""Models of the Hugging Face hub, by a stand-in for its client: what is fetched, and refusals."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from families import every
from support.command import Cli, nothing_new, refused

from cellscribe.errors import InputError
from cellscribe.families.hub import wanted_files
from cellscribe.families.registry import read_model

GENEFORMER = (
    *("README.md", "config.json", "model.safetensors", "training_args.bin", ".gitattributes"),
    *("Geneformer-V1-10M/config.json", "Geneformer-V1-10M/model.safetensors"),
    *("Geneformer-V2-104M/config.json", "Geneformer-V2-104M/model.safetensors"),
    "Geneformer-V2-104M/training_args.bin",
    "fine_tuned_models/a/b/model.safetensors",
    *("geneformer/token_dictionary_gc104M.pkl", "geneformer/gene_median_dictionary_gc104M.pkl"),
    *("geneformer/tokenizer.py", "examples/a.ipynb", "docs/big.bin.png"),
    "geneformer/gene_dictionaries_30m/token_dictionary_gc30M.pkl",
)
TABLES = {name for name in GENEFORMER if name.endswith(".pkl")}


class Hub:
    """What `cellscribe` asks of ``huggingface_hub``."""

    def __init__(self, folder: Path, error: Exception | None = None) -> None:
        self.folder, self.error, self.asked = folder, error, []  # type: ignore[var-annotated]

    def list_repo_files(self, name: str, revision: str | None = None) -> list[str]:
        self.asked.append((name, revision))
        if self.error is not None:
            raise self.error
        return [str(p.relative_to(self.folder)) for p in self.folder.rglob("*") if p.is_file()]

    def snapshot_download(
        self,
        name: str,
        revision: str | None = None,
        allow_patterns: Sequence[str] = (),
        local_files_only: bool = False,
    ) -> str:
        if local_files_only and "cached" not in name:
            raise self.error or OSError
        self.asked.append(tuple(allow_patterns))
        return str(self.folder)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    source, _ = every.write("scgpt", tmp_path / "published")
    made = Hub(source)
    module = ModuleType("huggingface_hub")
    module.HfApi = lambda: made  # type: ignore[attr-defined]
    module.snapshot_download = made.snapshot_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return made


def test_without_the_client_it_is_named(
    run: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    line = refused(run("import", "ctheodoris/Geneformer", "-o", tmp_path / "out"))
    assert 'pip install "cellscribe[hub]"' in line


def test_a_repository_is_downloaded(hub: Hub, run: Cli, tmp_path: Path) -> None:
    ran = run("import", "lab/scgpt", "-o", tmp_path / "out", "--revision", "v1")
    assert ran.status == 0, ran.err
    assert "From Hugging Face: lab/scgpt" in ran.err
    assert read_model(tmp_path / "out").family == "scgpt"
    assert hub.asked[0] == ("lab/scgpt", "v1")
    assert set(hub.asked[1]) == {"args.json", "best_model.pt", "vocab.json"}


def error_of(kind: str) -> Exception:
    return type(kind, (OSError,), {})("https://huggingface.co/api: a line\nand more")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (error_of("RepositoryNotFoundError"), "neither here nor at Hugging Face"),
        (error_of("GatedRepoError"), "ask for consent first"),
        (error_of("RevisionNotFoundError"), "no revision v9 (--revision)"),
        (error_of("OfflineModeIsEnabled"), "HF_HUB_OFFLINE is set"),
        (ConnectionError("HTTPSConnectionPool(host='huggingface.co', port=443)"), "network"),
        (RuntimeError("HTTPSConnectionPool(host='huggingface.co', port=443)"), "network"),
    ],
)
def test_what_the_hub_refuses(
    error: Exception, words: str, hub: Hub, run: Cli, tmp_path: Path
) -> None:
    hub.error = error
    line = refused(run("import", "lab/other", "-o", tmp_path / "out", "--revision", "v9"))
    assert words in line and "Pool" not in line and "api" not in line
    nothing_new(tmp_path, "published")


def test_what_was_downloaded_before_needs_no_network(hub: Hub, run: Cli, tmp_path: Path) -> None:
    hub.error = ConnectionError("no network")
    assert run("import", "lab/cached", "-o", tmp_path / "out").status == 0


def test_a_revision_of_a_folder(run: Cli, tmp_path: Path) -> None:
    source, _ = every.write("scgpt", tmp_path / "published")
    line = refused(run("import", source, "-o", tmp_path / "out", "--revision", "main"))
    assert "leave out --revision" in line


def test_only_the_model_and_its_tables_are_fetched() -> None:
    top = set(wanted_files(GENEFORMER, None, "c/g"))
    assert top == {"README.md", "config.json", "model.safetensors"} | TABLES
    one = set(wanted_files(GENEFORMER, "Geneformer-V1-10M", "c/g"))
    assert one == {f"Geneformer-V1-10M/{n}" for n in ("config.json", "model.safetensors")} | TABLES
    deep = wanted_files(GENEFORMER, "fine_tuned_models/a/b/", "c/g")
    assert set(deep) == {"fine_tuned_models/a/b/model.safetensors"} | TABLES


def test_one_model_in_a_folder_is_found_and_several_are_listed() -> None:
    only = ("README.md", "model/config.json", "model/pytorch_model.bin", "model/optimizer.pt")
    assert wanted_files(only, None, "a/b") == ["model/config.json", "model/pytorch_model.bin"]
    nemo = ("10M/weights/__0_0.distcp", "10M/weights/.metadata", "10M/context/model.yaml")
    assert wanted_files(nemo, None, "a/b") == list(nemo)
    for files, subfolder, words in (
        ([*only, "other/model.safetensors"], None, "holds 2 models, model, other; choose one by"),
        (only, "nowhere", "no folder nowhere"),
    ):
        with pytest.raises(InputError, match=words):
            wanted_files(files, subfolder, "a/b")


def test_the_real_client_has_what_is_asked_of_it() -> None:
    hub: Any = pytest.importorskip("huggingface_hub")
    import inspect

    assert "revision" in inspect.signature(hub.HfApi.list_repo_files).parameters
    wanted = {"revision", "allow_patterns", "local_files_only"}
    assert wanted <= set(inspect.signature(hub.snapshot_download).parameters)
    errors = {"RepositoryNotFoundError", "GatedRepoError", "RevisionNotFoundError"}
    assert {*errors, "HFValidationError", "OfflineModeIsEnabled"} <= set(vars(hub.errors))
