"""Exports that transformers and Geneformer's own tools open."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families.published_geneformer import small_dictionaries, write_published
from support.tiny import save_model

from cellscribe.cells.gene_names.vocabulary import Vocabulary
from cellscribe.config import ImportOptions, ModelConfig
from cellscribe.errors import InputError
from cellscribe.families.geneformer import checkpoint
from cellscribe.families.geneformer.export import check_bert, export_hugging_face
from cellscribe.families.importing import import_model
from cellscribe.families.source import Source
from cellscribe.model.attention import Lengths
from cellscribe.model.checkpoint import load_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")
KINDS = ("token_dictionary", "gene_median_dictionary", "ensembl_mapping_dict", "gene_name_id_dict")


def dictionaries(folder: Path) -> dict[str, Any]:
    return {kind: pickle.loads((folder / f"{kind}.pkl").read_bytes()) for kind in KINDS}


@pytest.fixture(scope="module", params=["V1", "V2"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Version, an import of a small published model, and its export."""
    root = tmp_path_factory.mktemp("export")
    published = write_published(root, request.param, sizes={"positions": 48})
    ours = import_model(published, root / "ours", log=lambda line: None)
    export_hugging_face(load_checkpoint(ours), root / "hf")
    return request.param, ours, root / "hf"


def test_the_dictionaries_are_the_published_ones(exported: Any) -> None:
    version, _, folder = exported
    made, found = small_dictionaries(version), dictionaries(folder)
    tokens = made["token_dictionary"]
    assert found["token_dictionary"] == tokens
    assert list(found["token_dictionary"]) == list(tokens)
    assert found["gene_name_id_dict"] == made["gene_name_id_dict"]
    genes = [name for name in tokens if name[0] != "<"]
    medians = made["gene_median_dictionary"]
    assert found["gene_median_dictionary"] == {gene: medians[gene] for gene in genes}
    # the tokeniser keeps of a mapping what has a token
    mapping = made["ensembl_mapping_dict"]
    assert found["ensembl_mapping_dict"] == {k: v for k, v in mapping.items() if v in tokens}
    plain = {type(value) for values in found.values() for value in values.values()}
    assert plain == {int, float, str}


def test_transformers_opens_it(exported: Any) -> None:
    from transformers import BertConfig, BertForMaskedLM

    _, ours, folder = exported
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["BertForMaskedLM"]
    assert config["pad_token_id"] == 0
    known = {*BertConfig().to_dict(), "position_embedding_type"}
    assert not config.keys() - known
    bert, told = BertForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    model = load_checkpoint(ours).model
    tokens = torch.arange(2, 40)[None]
    with torch.inference_mode():
        wanted = bert.eval()(tokens).logits
        found = model(tokens, Lengths((38,), torch.device("cpu")))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_it_comes_back_as_it_was(exported: Any, tmp_path: Path) -> None:
    _, ours, folder = exported
    assert checkpoint.recognise(Source(folder))
    again = import_model(folder, tmp_path / "again", log=lambda line: None)
    before, after = load_checkpoint(ours), load_checkpoint(again)
    assert (before.hash, before.config, before.pooling) == (after.hash, after.config, after.pooling)
    assert before.vocabulary.hash == after.vocabulary.hash


def test_the_readme_says_how_geneformers_tools_are_told(exported: Any) -> None:
    version, _, folder = exported
    text = (folder / "README.md").read_text()
    wanted = {
        "V1": ["model_input_size=48, special_token=False", 'emb_mode="cell", emb_layer=-1'],
        "V2": ["model_input_size=48, special_token=True", 'emb_mode="cls", emb_layer=-1'],
    }
    assert all(words in text for words in wanted[version])


def test_a_model_of_ours_is_exported_with_the_special_tokens_that_it_reads(
    tiny_model: Path, tmp_path: Path
) -> None:
    from transformers import BertForMaskedLM

    checkpoint = load_checkpoint(tiny_model)
    export_hugging_face(checkpoint, tmp_path / "hf")
    tokens = dictionaries(tmp_path / "hf")["token_dictionary"]
    # it reads [CLS] and no [SEP]: Geneformer's tools take "<eos>" here for one in the data
    assert list(tokens)[:5] == ["<cls>", "<mask>", "<pad>", "[SEP]", "[UKW]"]
    bert = BertForMaskedLM.from_pretrained(tmp_path / "hf")
    assert bert.config.pad_token_id == tokens["<pad>"]
    assert "tokenise with `cellscribe tokenize`" in (tmp_path / "hf" / "README.md").read_text()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"norm": "pre"}, "norms before the branches"),
        ({"head_act": "gelu"}, "another activation in its head"),
        ({"type_vocab_size": 0}, "no token types"),
    ],
)
def test_networks_that_bert_cannot_be_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        check_bert(ModelConfig(**fields), "model")
    assert "\n" not in str(caught.value)
    check_bert(ModelConfig(), "model")


def test_a_folder_that_is_there_is_kept(exported: Any, tiny_model: Path) -> None:
    _, _, folder = exported
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(InputError, match="exists already"):
        export_hugging_face(load_checkpoint(tiny_model), folder)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_medians_keep_every_bit(shared_genes: Path, tmp_path: Path) -> None:
    published = write_published(
        tmp_path, "V1", dictionaries=shared_genes, sizes={"positions": 48, "layers": 1}
    )
    found = checkpoint.read_published(Source(published), ImportOptions()).table
    assert isinstance(found, Vocabulary)
    found.write(tmp_path / "genes.tsv")
    again = Vocabulary.read(tmp_path / "genes.tsv").medians
    given = pickle.loads((shared_genes / "gene_median_dictionary_gc30M.pkl").read_bytes())
    np.testing.assert_array_equal(again[2:], [given[gene] for gene in found.ids[2:]])


def test_a_cell_head_stays_behind(tmp_path: Path) -> None:
    """Other tools have none; the folder holds what BERT has, and says so."""
    transformers = pytest.importorskip("transformers")
    ours = load_checkpoint(save_model(tmp_path / "ours", cell_vector_size=12))
    export_hugging_face(ours, tmp_path / "hf")
    bert, told = transformers.BertForMaskedLM.from_pretrained(
        tmp_path / "hf", output_loading_info=True
    )
    assert not told["unexpected_keys"] and not told["missing_keys"]
    theirs = bert.bert.embeddings.word_embeddings.weight
    torch.testing.assert_close(theirs, ours.model.encoder.genes.weight, rtol=0, atol=0)
    assert "cell head is not here" in (tmp_path / "hf/README.md").read_text()
