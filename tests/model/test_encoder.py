"""The encoder against Hugging Face's BERT, torch's own layers, and torch's count of operations."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cellscribe.cells.gene_names.vocabulary import PAD, Vocabulary
from cellscribe.config import ModelConfig
from cellscribe.model.attention import Lengths, flash, jagged, packed
from cellscribe.model.checkpoint import save_checkpoint
from cellscribe.model.encoder import (
    Block,
    Linear,
    MaskedGeneModel,
    count_parameters,
    flops_per_cell,
    initialise,
    set_compute_dtype,
)

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
LENGTHS = (1, 17, 64, 33, 64, 2)


def small(**changes) -> ModelConfig:
    fields = {
        "vocab_size": 90,
        "hidden_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "intermediate_size": 80,
        "max_position_embeddings": 70,
        "context": 69,
    }
    return ModelConfig(**{**fields, **changes})


def make_model(config: ModelConfig, seed: int = 0) -> MaskedGeneModel:
    """Every parameter drawn, norms and biases too, so that none can be forgotten or mistaken."""
    model = MaskedGeneModel(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            middle = 1.0 if "norm.weight" in name else 0.0
            parameter.normal_(middle, 0.1, generator=generator)
    return model.eval()


def make_tokens(lengths: tuple[int, ...], vocab_size: int, seed: int = 1) -> torch.Tensor:
    """``[B, L]`` padded with [PAD]."""
    generator = torch.Generator().manual_seed(seed)
    tokens_BL = torch.randint(5, vocab_size, (len(lengths), max(lengths)), generator=generator)
    tokens_BL[torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None]] = PAD
    return tokens_BL


def pack(x_BL: torch.Tensor, lengths: tuple[int, ...]) -> torch.Tensor:
    return torch.cat([row[:n] for row, n in zip(x_BL, lengths, strict=True)])


def close(ours: torch.Tensor, theirs: torch.Tensor, limit: float = 1e-5) -> None:
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype == torch.float32
    assert (ours - theirs).abs().max() < limit


@pytest.fixture
def to_transformers(tmp_path: Path) -> Callable[[MaskedGeneModel], nn.Module]:
    """Give a model to Hugging Face by way of a checkpoint."""
    transformers = pytest.importorskip("transformers")

    def through_a_folder(model: MaskedGeneModel) -> nn.Module:
        n_genes = model.config.vocab_size - 5
        ids = [f"ENSG{i:011}" for i in range(n_genes)]
        vocabulary = Vocabulary.build(ids, [""] * n_genes, np.ones(n_genes))
        save_checkpoint(tmp_path / "model", model, vocabulary, {})
        return transformers.BertForMaskedLM.from_pretrained(tmp_path / "model").eval()

    return through_a_folder


@pytest.mark.parametrize("hidden_act", ["relu", "gelu", "gelu_new"])
def test_equal_to_hugging_face_bert(hidden_act: str, to_transformers) -> None:
    model = make_model(small(hidden_act=hidden_act))
    theirs = to_transformers(model)
    tokens_BL, cells = make_tokens(LENGTHS, 90), Lengths(LENGTHS, CPU)
    mask_BL = torch.arange(tokens_BL.shape[1]) < torch.tensor(LENGTHS)[:, None]
    with torch.no_grad():
        out = theirs(tokens_BL, attention_mask=mask_BL.long(), output_hidden_states=True)
        expected = [pack(hidden, LENGTHS) for hidden in out.hidden_states]
        assert len(expected) == 1 + model.config.num_hidden_layers
        padded = model.encoder.hidden_states(tokens_BL, cells)
        packed = model.encoder.hidden_states(pack(tokens_BL, LENGTHS), cells)
        for ours_BLD, ours_ND, theirs_ND in zip(padded, packed, expected, strict=True):
            close(pack(ours_BLD, LENGTHS), theirs_ND)
            close(ours_ND, theirs_ND)
        logits = pack(out.logits, LENGTHS)
        close(pack(model(tokens_BL, cells), LENGTHS), logits)
        close(model(pack(tokens_BL, LENGTHS), cells), logits)
        assert torch.equal(model.encoder(tokens_BL, cells), padded[-1])
    # packed with gradients goes cell by cell instead of through the CPU kernel
    close(model(pack(tokens_BL, LENGTHS), cells).detach(), logits)


@pytest.mark.parametrize("hidden_act", ["relu", "gelu"])
def test_pre_norm_equals_torchs_layers(hidden_act: str) -> None:
    config = small(norm="pre", hidden_act=hidden_act)
    model = make_model(config)
    blocks = []
    for block in model.encoder.blocks:
        layer = nn.TransformerEncoderLayer(
            48, 3, 80, 0.0, hidden_act, config.layer_norm_eps, batch_first=True, norm_first=True
        )
        own = block.state_dict()
        names = {
            "self_attn.in_proj_": "qkv.",
            "self_attn.out_proj.": "attention_out.",
            "linear1.": "up.",
            "linear2.": "down.",
            "norm1.": "attention_norm.",
            "norm2.": "ffn_norm.",
        }
        layer.load_state_dict(
            {
                f"{theirs}{w}": own[f"{ours}{w}"]
                for theirs, ours in names.items()
                for w in ("weight", "bias")
            }
        )
        blocks.append(layer)
    tokens_BL, cells = make_tokens(LENGTHS, 90), Lengths(LENGTHS, CPU)
    padding_BL = torch.arange(tokens_BL.shape[1]) >= torch.tensor(LENGTHS)[:, None]
    encoder = model.encoder
    x = encoder.genes.weight[tokens_BL] + encoder.positions.weight[: tokens_BL.shape[1]]
    x = x + encoder.token_types.weight[0]
    close(encoder.embed(tokens_BL, cells.positions(tokens_BL)), x)
    for layer in blocks:
        x = layer(x, src_key_padding_mask=padding_BL)
    x = nn.functional.layer_norm(
        x, (48,), encoder.norm.weight, encoder.norm.bias, config.layer_norm_eps
    )
    close(pack(encoder(tokens_BL, cells), LENGTHS), pack(x, LENGTHS))
    with torch.no_grad():
        close(encoder(pack(tokens_BL, LENGTHS), cells), pack(x, LENGTHS))


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_a_cell_does_not_depend_on_its_neighbours(norm: str) -> None:
    encoder = make_model(small(norm=norm)).encoder
    tokens_BL = make_tokens(LENGTHS, 90)
    with torch.no_grad():
        padded = encoder(tokens_BL, Lengths(LENGTHS, CPU))
        packed = encoder(pack(tokens_BL, LENGTHS), Lengths(LENGTHS, CPU))
        offsets = np.concatenate([[0], np.cumsum(LENGTHS)])
        for i, (start, end) in enumerate(pairwise(offsets)):
            alone = encoder(tokens_BL[i : i + 1, : LENGTHS[i]], Lengths(LENGTHS[i : i + 1], CPU))[0]
            close(padded[i, : LENGTHS[i]], alone)
            close(packed[start:end], alone)


def test_order_of_genes_matters_by_their_positions_alone() -> None:
    encoder = make_model(small()).encoder
    tokens_BL, cells = make_tokens((30,), 90), Lengths((30,), CPU)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        straight = encoder(tokens_BL, cells)
        shuffled = encoder(tokens_BL[:, order], cells, positions=order[None])
        close(shuffled, straight[:, order])
        assert (encoder(tokens_BL[:, order], cells) - straight[:, order]).abs().max() > 0.01


@pytest.mark.parametrize("length", [1, 40, 70])
def test_flops_equal_torchs_count(length: int) -> None:
    config = small()
    encoder = make_model(config).encoder
    tokens_BL = make_tokens((length,), 90)
    counter = FlopCounterMode(display=False)
    # spelled-out attention: the CPU's fused kernel is one that the counter does not know
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        encoder(tokens_BL, Lengths((length,), CPU))
    assert flops_per_cell(config, length) == counter.get_total_flops()


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_bf16_products_leave_the_residual_stream_in_float32(norm: str, layout: str) -> None:
    model = make_model(small(norm=norm))
    set_compute_dtype(model, torch.bfloat16)
    seen: dict[type, set[torch.dtype]] = {Block: set(), nn.LayerNorm: set(), Linear: set()}
    for module in model.modules():
        if isinstance(module, (Block, nn.LayerNorm)):
            kind = type(module)
            module.register_forward_pre_hook(lambda _, args, k=kind: seen[k].add(args[0].dtype))
            module.register_forward_hook(lambda _m, _a, out, k=kind: seen[k].add(out.dtype))
        if isinstance(module, Linear):
            module.register_forward_hook(lambda _m, _a, out: seen[Linear].add(out.dtype))
    tokens_BL = make_tokens(LENGTHS, 90)
    tokens = tokens_BL if layout == "padded" else pack(tokens_BL, LENGTHS)
    logits = model(tokens, Lengths(LENGTHS, CPU))
    assert seen == {
        Block: {torch.float32},
        nn.LayerNorm: {torch.float32},
        Linear: {torch.bfloat16},
    }
    assert logits.dtype == torch.float32
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    logits.sum().backward()
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}


@pytest.mark.parametrize("cast_weights", [False, True])
@pytest.mark.parametrize("norm", ["post", "pre"])
def test_bf16_points_the_same_way_as_float32(norm: str, cast_weights: bool) -> None:
    config = small(
        norm=norm,
        hidden_size=192,
        num_attention_heads=6,
        num_hidden_layers=6,
        intermediate_size=384,
    )
    model = make_model(config)
    initialise(model, 0)
    tokens_BL, cells = make_tokens(LENGTHS, 90), Lengths(LENGTHS, CPU)
    with torch.no_grad():
        exact = pack(model.encoder(tokens_BL, cells), LENGTHS)
        set_compute_dtype(model, torch.bfloat16, cast_weights=cast_weights)
        for ours in (
            pack(model.encoder(tokens_BL, cells), LENGTHS),
            model.encoder(pack(tokens_BL, LENGTHS), cells),
        ):
            assert ours.dtype == torch.float32
            assert not torch.equal(ours, exact)
            assert torch.cosine_similarity(ours, exact, dim=-1).min() > 0.999


def test_initial_weights_are_berts() -> None:
    config = small(vocab_size=2_000, initializer_range=0.05)
    model = make_model(config)
    initialise(model, 7)
    for name, parameter in model.named_parameters():
        if "norm" in name or name.endswith("bias"):
            constant = 1.0 if name.endswith("norm.weight") else 0.0
            assert (parameter == constant).all(), name
        else:
            drawn = parameter[5:] if "genes" in name else parameter
            # five standard errors of mean and deviation
            drawn, error = drawn.detach(), 5 * 0.05 / drawn.numel() ** 0.5
            assert abs(float(drawn.mean())) < error, name
            assert abs(float(drawn.std()) - 0.05) < error, name
    assert (model.encoder.genes.weight[PAD] == 0).all()
    again, other = MaskedGeneModel(config), MaskedGeneModel(config)
    initialise(again, 7)
    initialise(other, 8)
    assert torch.equal(again.encoder.genes.weight, model.encoder.genes.weight)
    assert not torch.equal(other.encoder.genes.weight, model.encoder.genes.weight)


def test_tied_parameters_count_once(to_transformers) -> None:
    model = make_model(small())
    assert count_parameters(model) == to_transformers(model).num_parameters()


def test_jagged_attention_is_packed_attention_with_its_gradients() -> None:
    """The way of a GPU, on a CPU; both beside one product after the other."""
    generator = torch.Generator().manual_seed(2)
    cells = Lengths(LENGTHS, CPU)
    leaves = [
        torch.randn(sum(LENGTHS), 3, 16, generator=generator, requires_grad=True) for _ in range(3)
    ]
    slope = torch.randn(sum(LENGTHS), 3, 16, generator=generator)
    found = []
    for attend in (jagged, packed):
        out = attend(*leaves, cells, 0.0)
        found.append([out.detach(), *torch.autograd.grad(out, leaves, slope)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_the_flash_operator_takes_what_it_is_given() -> None:
    """It is torch's own affair; a release that changes it must not be met on a GPU first."""
    schema = torch.ops.aten._flash_attention_forward.default._schema
    names = [argument.name for argument in schema.arguments]
    wanted = ["query", "key", "value", "cum_seq_q", "cum_seq_k", "max_q", "max_k"]
    assert names[:10] == [*wanted, "dropout_p", "is_causal", "return_debug_mask"]
    assert all(argument.has_default_value() for argument in schema.arguments[10:])
    assert schema.returns[0].name == "output"


@pytest.mark.gpu
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_flash_attention_is_that_of_nested_tensors(dropout: float) -> None:
    """Kernel and seed are the same, so are the places that are dropped."""
    generator = torch.Generator().manual_seed(4)
    there = Lengths(LENGTHS, torch.device("cuda"))
    leaves = [
        torch.randn(sum(LENGTHS), 3, 16, generator=generator).cuda().bfloat16().requires_grad_()
        for _ in range(3)
    ]
    found = []
    for attend in (flash, jagged):
        torch.manual_seed(5)
        out = attend(*leaves, there, dropout)
        found.append([out.detach(), *torch.autograd.grad(out.float().sin().sum(), leaves)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_gpu_trains_as_a_cpu_does(dtype: torch.dtype) -> None:
    cells, there = Lengths(LENGTHS, CPU), Lengths(LENGTHS, torch.device("cuda"))
    generator = torch.Generator().manual_seed(3)
    leaves = [torch.randn(sum(LENGTHS), 3, 16, generator=generator) for _ in range(3)]
    expected = [x.clone().requires_grad_() for x in leaves]
    packed(*expected, cells, 0.0).sin().sum().backward()
    ours = [x.cuda().to(dtype).requires_grad_() for x in leaves]
    packed(*ours, there, 0.0).float().sin().sum().backward()
    for mine, theirs in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine.grad.cpu().float(), theirs.grad, rtol=0.05, atol=0.05)
    dropped = packed(*ours, there, 0.5)
    assert torch.isfinite(dropped).all()
    assert not torch.equal(dropped, packed(*ours, there, 0.5))
