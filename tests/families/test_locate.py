"""Where people have their models: a folder down, shards, a run's folder, names with prefixes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from families import every
from families.published_geneformer import write_published
from safetensors.torch import load_file, save_file
from support.command import Cli, refused

from cellscribe.errors import InputError
from cellscribe.families.importing import import_model
from cellscribe.model.checkpoint import read_weights

Weights = dict[str, torch.Tensor]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_published(tmp_path / "hub", "V2", sizes={"positions": 48, "layers": 2})


@pytest.fixture
def told() -> list[str]:
    return []


def imported(source: Path, told: list[str], out: str = "ours", **options: str) -> str:
    """Hash of the weights of an import."""
    import cellscribe

    out_path = source.parent / out
    if out_path.exists():
        shutil.rmtree(out_path)
    cellscribe.import_model(source, out_path, log=told.append, **options)
    return read_weights(out_path)[1]


def refusal(source: Path, **options: str) -> str:
    import cellscribe

    out = source.parent / "never"
    with pytest.raises(InputError) as error:
        cellscribe.import_model(source, out, log=lambda line: None, **options)
    assert "\n" not in str(error.value)
    assert not out.exists()
    return str(error.value)


def in_shards(folder: Path, kind: str) -> dict[str, str]:
    """Put the weights of a folder into three files with an index."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    stem = "model" if kind == "safetensors" else "pytorch_model"
    places = {}
    for i in range(3):
        name = f"{stem}-{i + 1:05d}-of-00003.{kind}"
        part = {key: weights[key] for key in list(weights)[i::3]}
        if kind == "safetensors":
            save_file(part, folder / name)
        else:
            torch.save(part, folder / name)
        places |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / f"{stem}.{kind}.index.json").write_text(json.dumps(index))
    return places


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards_are_the_whole(kind: str, folder: Path, told: list[str]) -> None:
    whole = imported(folder, told)
    in_shards(folder, kind)
    assert imported(folder, told) == whole
    index = next(folder.glob("*.index.json"))
    assert imported(index, told, out="by-index") == whole


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: {k: f"../{v}" for k, v in m.items()}, "names a file outside its folder"),
        (lambda m: {k: f"/etc/{v}" for k, v in m.items()}, "names a file outside its folder"),
        (lambda m: dict.fromkeys(m, ".."), "names a file outside its folder"),
        (lambda m: dict.fromkeys(m, 3), "no weight_map"),
        (lambda m: [], "no weight_map"),
        (lambda m: {}, "no weight_map"),
        (lambda m: {**m, "more": "model-9.safetensors"}, "1 of its 4 files are missing: model-9"),
        (lambda m: {**m, "more": min(m.values())}, "lacks more, against"),
        (lambda m: dict(list(m.items())[1:]), "has bert.embeddings"),
    ],
)
def test_an_index_that_does_not_fit(
    change: Callable[[dict[str, str]], object], words: str, folder: Path
) -> None:
    places = in_shards(folder, "safetensors")
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": change(places)}))
    line = refusal(folder)
    assert words in line, line


def test_a_shard_that_is_a_pointer_or_missing(folder: Path) -> None:
    in_shards(folder, "bin")
    shard = folder / "pytorch_model-00002-of-00003.bin"
    shard.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "00002-of-00003.bin: a Git LFS pointer" in refusal(folder)
    shard.unlink()
    assert "1 of its 3 files are missing: pytorch_model-00002" in refusal(folder)


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "model.", "_orig_mod.module.", "module.model.", "bert."],
)
def test_prefixes_of_wrappers_are_taken_off(prefix: str, folder: Path, told: list[str]) -> None:
    plain = imported(folder, told)
    weights = load_file(folder / "model.safetensors")
    save_file({f"{prefix}{k}": v for k, v in weights.items()}, folder / "model.safetensors")
    assert imported(folder, told) == plain


def test_a_state_dict_within_a_run_and_an_encoder_without_prefix(
    folder: Path, told: list[str]
) -> None:
    plain = imported(folder, told)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    bare = {key.removeprefix("bert."): value for key, value in weights.items()}
    torch.save({"state_dict": bare, "epoch": 3}, folder / "pytorch_model.bin")
    assert imported(folder, told) == plain
    torch.save({**weights, **bare}, folder / "pytorch_model.bin")
    assert "under two names" in refusal(folder)
    both = {**weights, **{f"module.{key}": value for key, value in weights.items()}}
    torch.save(both, folder / "pytorch_model.bin")
    assert "twice, with and without a wrapper's prefix" in refusal(folder)


def test_a_clone_with_its_model_one_folder_down(folder: Path, told: list[str]) -> None:
    assert imported(folder.parent, told, out="a") == imported(folder, told)
    assert told[0] == f"Taking {folder.name}, the one model in {folder.parent}."
    second = folder.with_name("Geneformer-V2-316M")
    shutil.copytree(folder, second)
    line = refusal(folder.parent)
    assert f"holds 2 models, {folder.name}, {second.name}; choose one by subfolder=" in line
    told.clear()
    imported(folder.parent, told, out="b", subfolder=second.name)
    assert told[0].endswith(f"from {second}")
    for wrong, words in (
        ("nowhere", "no such folder (subfolder="),
        ("../hub", "give a folder within"),
        ("/etc", "give a folder within"),
        ("", "give a folder within"),
    ):
        assert words in refusal(folder.parent, subfolder=wrong)


def test_a_run_of_the_trainer(folder: Path, tmp_path: Path, told: list[str]) -> None:
    run = tmp_path / "hub" / "run"
    for step in (500, 1000, 1500):
        checkpoint = run / f"checkpoint-{step}"
        shutil.copytree(folder, checkpoint)
        # not to be read: one that would be refused, and one that is cut
        (checkpoint / "optimizer.pt").write_bytes(b"cos\nsystem\n.")
        (checkpoint / "training_args.bin").write_bytes(b"PK\x03\x04")
    weights = load_file(folder / "model.safetensors")
    weights["cls.predictions.bias"] += 1
    save_file(weights, run / "checkpoint-1000" / "model.safetensors")
    save_file(weights, run / "checkpoint-1500" / "model.safetensors")
    newest = imported(run, told)
    assert told[0].startswith("Taking checkpoint-1500, the newest of 3 checkpoints in")
    assert newest == imported(run / "checkpoint-1000", told)
    assert newest != imported(run, told, subfolder="checkpoint-500")
    shutil.copytree(run / "checkpoint-500", run, dirs_exist_ok=True)
    told.clear()
    assert newest != imported(run, told)
    assert told[0].endswith(f"from {run}")


def test_only_what_was_read_is_told(folder: Path, tmp_path: Path) -> None:
    (folder / "optimizer.pt").write_bytes(bytes(1 << 20))
    out = import_model(folder, tmp_path / "ours", log=lambda line: None)
    config = json.loads((out / "config.json").read_text())
    told = config["cellscribe"]["provenance"]["read from"]
    names = [line.partition(",")[0] for line in told]
    assert names[0] == "model.safetensors"
    assert "optimizer.pt" not in names
    assert {"config.json", "token_dictionary_gc104M.pkl"} <= set(names)


def test_a_file_for_a_folder_and_the_reverse(folder: Path, run: Cli, tmp_path: Path) -> None:
    line = refused(run("import", folder / "config.json", "-o", tmp_path / "out"))
    assert f"give its folder, {folder}" in line
    (tmp_path / "a" / "model.safetensors").mkdir(parents=True)
    (tmp_path / "a" / "config.json").write_text((folder / "config.json").read_text())
    assert "no checkpoint of a known family" in refused(
        run("import", tmp_path / "a", "-o", tmp_path / "out")
    )


def test_links_that_go_round_and_names_that_none_can_have(run: Cli, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").symlink_to(".")
    (tmp_path / "a" / "model.safetensors").symlink_to("model.safetensors")
    for source in (tmp_path / "loop", tmp_path / "a", "x" * 5000, "a\0b", "lab/" + "x" * 300):
        line = refused(run("import", source, "-o", tmp_path / "out"))
        assert len(line) < 1200


@pytest.mark.parametrize("family", every.FAMILIES)
def test_every_family_is_found_a_folder_down(family: str, tmp_path: Path, run: Cli) -> None:
    source, genes = every.write(family, tmp_path / "clone" / "model")
    more = ("--genes", genes) if genes else ()
    above = tmp_path / "clone"
    if source.parent != above:  # a file, or a folder in a folder
        above = source.parent if source.is_file() else source.parent.parent
    assert run("import", above, "-o", tmp_path / "out", *more).status == 0, above
