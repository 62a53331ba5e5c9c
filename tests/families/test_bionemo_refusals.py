"""BioNeMo's checkpoints: whatever is missing, damaged or of another model is told in a line."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import published_bionemo as made
from families.test_unpickle_attacks import KINDS, NESTED, call, name, text, whole

from cellscribe.config import ImportOptions
from cellscribe.errors import InputError
from cellscribe.families.bionemo import checkpoint
from cellscribe.families.bionemo.distributed_checkpoint import read_metadata
from cellscribe.families.bionemo.nemo_archive import NemoArchive
from cellscribe.families.importing import import_model
from cellscribe.families.source import Source

QKV = "model.language_model.encoder.layers.1.self_attention.query_key_value.weight"


class Bomb:
    """Makes a file where a pickle is read without care."""

    def __reduce__(self) -> Any:
        return (os.mkdir, ("exploded",))


def cut(path: Path, share: float) -> None:
    os.truncate(path, int(path.stat().st_size * share))


def in_nemo(**options: Any) -> Callable[[Path], Path]:
    return lambda folder: made.write_nemo(folder / "a.nemo", **options)


def in_nemo_2(**options: Any) -> Callable[[Path], Path]:
    return lambda folder: made.write_nemo_2(folder / "a", **options)


def cut_nemo(share: float) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = made.write_nemo(folder / "a.nemo")
        cut(path, share)
        return path

    return write


def changed_nemo_2(change: Callable[[Path], Any], **options: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = made.write_nemo_2(folder / "a", **options)
        change(path)
        return path

    return write


def split_nemo(folder: Path) -> Path:
    path = folder / "a.nemo"
    made.write_nemo(path)
    with tarfile.open(path) as archive:
        archive.extractall(folder / "in", **made.SAFELY)
    (folder / "in/mp_rank_00").mkdir()
    (folder / "in/model_weights.ckpt").rename(folder / "in/mp_rank_00/model_weights.ckpt")
    with tarfile.open(path, "w") as archive:
        archive.add(folder / "in", ".")
    return path


def rms_norm(folder: Path) -> Path:
    path = made.write_nemo(folder / "a.nemo")
    made.edit_config(
        path, lambda text: text.replace("normalization: layernorm", "normalization: rms")
    )
    return path


def two_archives(folder: Path) -> Path:
    made.write_nemo(folder / "in/a.nemo")
    return made.write_nemo(folder / "in/b.nemo").parent


OTHER = torch.zeros(3)
REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no medians": (in_nemo(artifacts=False), "medians.json is missing.*by --genes FILE"),
    "no medians, NeMo 2": (in_nemo_2(beside=False), "medians.json is missing.*by --genes FILE"),
    "missing": (
        in_nemo(changed={QKV: None}),
        "missing: encoder.layers.1.self_attention.linear_qkv",
    ),
    "no layers": (
        in_nemo(changed={"model.language_model.encoder.layers.0.mlp.dense_h_to_4h.weight": None}),
        "no encoder.layers.0.mlp.linear_fc1.weight",
    ),
    "left over": (
        in_nemo(changed={f"model.other.{i}.weight": OTHER for i in range(7)}),
        r"no Geneformer has: other.0.weight, other.1.weight, .*, other.4.weight and 2 more",
    ),
    "another shape": (in_nemo(changed={QKV: torch.zeros(384, 64)}), r"shape \[384, 64\] where"),
    "untied": (
        in_nemo(changed={"model.lm_head.weight": torch.zeros(384, 128)}),
        "its head has a gene table of its own",
    ),
    "more than tensors": (
        in_nemo(changed={"model.bomb": Bomb()}),
        "refused, it holds more than tensors",
    ),
    "cut short": (cut_nemo(0.5), "damaged or cut short"),
    "cut to nothing": (cut_nemo(0), "damaged or cut short"),
    "two archives": (two_archives, "holds a.nemo, b.nemo; name one of them"),
    "split": (split_nemo, "split over several ranks"),
    "another norm": (rms_norm, "normalization: rms"),
    "no distcp": (
        changed_nemo_2(lambda path: (path / "weights/__0_0.distcp").unlink()),
        "__0_0.distcp: missing; copy or download the whole folder",
    ),
    "cut distcp": (
        changed_nemo_2(lambda path: cut(path / "weights/__0_0.distcp", 0.5)),
        "__0_0.distcp: cut short",
    ),
    "broken distcp": (
        changed_nemo_2(
            lambda path: (path / "weights/__0_0.distcp").write_bytes(
                bytes((path / "weights/__0_0.distcp").stat().st_size)
            )
        ),
        "0_0.distcp, .*: damaged or cut short",
    ),
    "no .metadata": (
        changed_nemo_2(lambda path: (path / "weights/.metadata").unlink()),
        "copy the whole folder, this hidden file too",
    ),
    "cut .metadata": (
        changed_nemo_2(lambda path: cut(path / "weights/.metadata", 0.5)),
        "metadata: damaged",
    ),
    "no metadata": (
        changed_nemo_2(lambda path: (path / "weights/.metadata").write_bytes(pickle.dumps([1]))),
        "metadata: damaged",
    ),
    "a bomb in .metadata": (
        changed_nemo_2(lambda path: (path / "weights/.metadata").write_bytes(pickle.dumps(Bomb()))),
        "refused, it holds more than a table of tensors: reading it would import posix.mkdir",
    ),
    "zarr": (
        changed_nemo_2(
            lambda path: (path / "weights/metadata.json").write_text('{"sharded_backend": "zarr"}')
        ),
        "format 'zarr', only torch_dist is read",
    ),
    "heads that do not divide": (
        changed_nemo_2(
            lambda path: (path / "context/model.yaml").write_text("num_attention_heads: 3\n")
        ),
        "3 attention heads do not divide a width of 128",
    ),
    "no JSON": (
        changed_nemo_2(lambda path: cut(path / "medians.json", 0.5)),
        "medians.json: damaged JSON",
    ),
    "medians of zero": (
        changed_nemo_2(lambda path: (path / "medians.json").write_text('{"ENSG1": 0}')),
        "not a table of Ensembl ids and medians above zero",
    ),
    "too few medians": (
        changed_nemo_2(lambda path: (path / "medians.json").write_text('{"ENSG1": 1}')),
        "384 rows of gene vectors do not fit a gene table of 6 tokens",
    ),
    "another vocabulary": (
        changed_nemo_2(lambda path: (path / "geneformer.vocab").write_text('{"vocab": {"a": 0}}')),
        "geneformer.vocab: not a BioNeMo vocabulary",
    ),
    "tokens out of order": (
        changed_nemo_2(
            lambda path: (path / "geneformer.vocab").write_text(
                '{"vocab": {"ENSG1": 0}, "gene_to_ens": {}}'
            )
        ),
        r"do not count up from \[CLS\]",
    ),
    "a gene without median": (
        changed_nemo_2(
            lambda path: (path / "geneformer.vocab").write_text(
                made.vocabulary_json({"ENSG00000000003": 1.0})
            )
        ),
        "1 genes of .*geneformer.vocab have no median .ENSG00000000003.",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused_in_a_line(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write, message = REFUSED[what]
    path = write(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        import_model(path, tmp_path / "out", log=str)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("genes", "message"),
    [("nowhere", "--genes nowhere: no such file"), (".", r"--genes \.: none of medians.json")],
)
def test_genes_that_are_not_there_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, genes: str, message: str
) -> None:
    archive = made.write_nemo(tmp_path / "in/a.nemo")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        checkpoint.read_published(Source(archive), ImportOptions(genes=Path(genes)))


@pytest.mark.parametrize(
    "data",
    [
        whole(KINDS["objects by state"]),
        whole(NESTED["a key of tuples"]),
        whole(b"K\x01"),
        whole(b"}"),
        whole(name("torch.distributed.checkpoint.metadata.Metadata") + b")\x81"),
        whole(name("torch.distributed.checkpoint.metadata.Metadata") + b")\x81}b"),
        whole(name("torch.distributed.checkpoint.metadata.Metadata") + b")\x81]b"),
        whole(name("torch.distributed.checkpoint.metadata.Metadata") + b")\x81]b]b"),
        whole(name("torch.distributed.checkpoint.metadata.Metadata") + b"K\x01\x85\x81"),
        whole(name("torch.distributed.checkpoint.metadata.MetadataIndex") + b")\x81"),
        whole(name("torch.distributed.checkpoint.metadata.MetadataIndex") + b")\x81Nb"),
        whole(call("torch.Size", text("a"))),
        whole(call("pathlib.PosixPath", b"K\x01")),
    ],
    ids=range(13),
)
def test_metadata_of_a_distributed_checkpoint_that_lies(data: bytes, tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_bytes(data)
    with pytest.raises(InputError, match=r"metadata: damaged") as error:
        read_metadata(tmp_path)
    assert "\n" not in str(error.value)


def archived(path: Path, mode: str, sizes: dict[str, int]) -> Path:
    """An archive of zeros."""
    with tarfile.open(path, mode) as archive:
        for member, size in sizes.items():
            info = tarfile.TarInfo(member)
            info.size = size
            archive.addfile(info, io.BytesIO(bytes(size)))
    return path


def test_an_archive_of_zeros_is_not_unpacked(tmp_path: Path) -> None:
    path = archived(tmp_path / "a.nemo", "w:gz", {"model_weights.ckpt": 1 << 24})
    with pytest.raises(InputError, match="larger than any"):
        NemoArchive(path).weights()
    path = archived(tmp_path / "b.nemo", "w:bz2", {"model_weights.ckpt": 1 << 24})
    with pytest.raises(InputError, match="damaged or cut short"):
        NemoArchive(path)


def test_texts_of_an_archive_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archived(tmp_path / "a.nemo", "w", {"model_config.yaml": 101, "b.yaml": 100})
    monkeypatch.setattr("cellscribe.families.bionemo.nemo_archive.TEXT", 100)
    archive = NemoArchive(path)
    assert archive.text("b.yaml") == "\0" * 100
    with pytest.raises(InputError, match=r"model_config\.yaml in it is too long"):
        archive.text("model_config.yaml")
