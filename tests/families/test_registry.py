"""A model directory is read once: whatever takes its name also takes its header."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import every
from scipy.sparse import csr_matrix

import cellscribe
from cellscribe.cells.gene_names.vocabulary import GeneTable, Vocabulary
from cellscribe.config import ModelOptions
from cellscribe.errors import InputError
from cellscribe.families.registry import (
    NETWORKS,
    RankedHeader,
    family_module,
    open_model,
    open_tokenizer,
    read_model,
)
from cellscribe.model import metadata

pytestmark = pytest.mark.usefixtures("one_thread")
KINDS = ("sc-fm", "geneformer", "scgpt")


@pytest.fixture(scope="module", params=KINDS)
def model(
    request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    if request.param == KINDS[0]:
        return tiny_model
    folder = tmp_path_factory.mktemp(request.param)
    source, genes = every.write(request.param, folder / "published")
    return cellscribe.import_model(source, folder / "model", genes=genes, log=lambda line: None)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a file of a model directory was read."""
    seen: Counter[str] = Counter()

    def counted(owner: Any, name: str, file: str) -> None:
        function = getattr(owner, name)
        plain = function.__func__ if isinstance(owner, type) else function

        def read(*arguments: Any) -> Any:
            seen[file] += 1
            return plain(*arguments)

        monkeypatch.setattr(owner, name, classmethod(read) if isinstance(owner, type) else read)

    counted(GeneTable, "read", "genes.tsv")
    counted(Vocabulary, "read", "genes.tsv")
    # each has a name of its own for it
    counted(metadata, "config_text", "config.json")
    counted(cellscribe.families.registry, "config_text", "config.json")
    return seen


def test_a_header_that_was_read_is_not_read_again(model: Path, reads: Counter[str]) -> None:
    header = read_model(model)
    assert reads == {"genes.tsv": 1, "config.json": 1}
    assert read_model(header) is header
    opened = open_model(header)
    assert opened.header is header
    assert open_tokenizer(header).about["vocabulary_hash"] == header.table.hash
    assert reads == {"genes.tsv": 1, "config.json": 1}


def test_a_model_is_the_same_by_name_and_by_header(model: Path) -> None:
    options = ModelOptions(pool="cls" if "scgpt" in str(model) else "genes")
    by_name, by_header = open_model(str(model), options), open_model(read_model(model), options)
    assert by_name.hash == by_header.hash
    assert by_name.cells.pooling == by_header.cells.pooling
    counts = csr_matrix(np.arange(60, dtype=np.float32).reshape(3, 20))
    columns = np.arange(5, 25, dtype=np.int32)
    tokens = [opened.cells.tokenize(counts, columns) for opened in (by_name, by_header)]
    rows = np.arange(3)
    assert np.array_equal(
        by_name.cells.embed(tokens[0], rows).detach(),
        by_header.cells.embed(tokens[1], rows).detach(),
    )


def test_a_header_is_of_its_kind(model: Path) -> None:
    header = read_model(model)
    assert isinstance(header, RankedHeader) == (header.family not in NETWORKS)
    if isinstance(header, RankedHeader):
        assert header.table is header.vocabulary
        assert header.pools == ("genes", "cls", "genes_but_last")
        assert len(header.table) == header.config.vocab_size
    else:
        assert header.pools == tuple(family_module(header.family).POOLS)


def test_the_identity_of_a_model_holds_every_field_of_its_configuration(model: Path) -> None:
    opened = open_model(model)
    header = opened.header
    assert opened.identity == {
        "model": opened.hash,
        "gene_table": header.table.hash,
        "model_config": header.config_hash,
    }
    changed = {header.config_hash}
    if isinstance(header, RankedHeader):
        shape, pooling = dataclasses.asdict(header.config), dataclasses.asdict(header.pooling)
        for name, value in shape.items():
            other = dataclasses.replace(header.config)
            # no value of this kind need make sense: the hash must tell them apart all the same
            object.__setattr__(other, name, "another" if isinstance(value, str) else -17)
            changed.add(dataclasses.replace(header, config=other).config_hash)
        for name in pooling:
            other_pooling = dataclasses.replace(header.pooling)
            object.__setattr__(other_pooling, name, -17)
            changed.add(dataclasses.replace(header, pooling=other_pooling).config_hash)
        n_fields = len(shape) + len(pooling)
    else:
        for name in header.settings:
            settings = header.settings | {name: -17}
            changed.add(dataclasses.replace(header, settings=settings).config_hash)
        n_fields = len(header.settings)
    changed.add(dataclasses.replace(header, family="bionemo").config_hash)
    assert len(changed) == n_fields + 2
    moved = dataclasses.replace(header, name="other", provenance={"seen": "elsewhere"})
    assert moved.config_hash == header.config_hash


def test_every_setting_of_a_network_is_refused_or_is_that_of_the_model(
    model: Path, tmp_path: Path
) -> None:
    before = open_model(model)
    if isinstance(before.header, RankedHeader):
        pytest.skip("its configuration is that of tests/model/test_hostile_checkpoint.py")
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    settings = config["cellscribe"]["settings"]
    odd = (None, True, -1, 0, 3, 10**12, 10**30, 0.5, "4", [], {}, ...)
    for name in settings:
        for value in odd:
            changed = {key: each for key, each in settings.items() if key != name}
            if value is not ...:
                changed[name] = value
            config["cellscribe"]["settings"] = changed
            (folder / "config.json").write_text(json.dumps(config))
            try:
                opened = open_model(folder)
            except InputError as error:
                assert "\n" not in str(error)
                continue
            assert opened.header.settings[name] == value
            same = value == settings[name]
            assert (opened.identity == before.identity) == same
