"""Names of a network's tensors, and the published ones that each is made of."""

from __future__ import annotations

from cellscribe.families import performer
from cellscribe.families.scfoundation.config import BRANCHES, ScfoundationConfig

OUTER_NAMES = {
    "values.into": "token_emb.mlp",
    "values.across": "token_emb.mlp2",
    "values.rows": "token_emb.emb",
    "positions": "pos_emb",
    "norm": "encoder.norm",
}
BLOCK_NAMES = {
    "qkv": "self_attn.in_proj_",
    "attention_out": "self_attn.out_proj.",
    "attention_norm": "norm1.",
    "up": "linear1.",
    "down": "linear2.",
    "ffn_norm": "norm2.",
}
DECODER_NAMES = {"link": "decoder_embed", "trunk_norm": "decoder.norm", "last_norm": "norm"}
FINAL_NAMES = {"final": "to_final"}


def tensor_names(config: ScfoundationConfig, branch: str) -> dict[str, tuple[str, ...]]:
    """Names of a branch's state, each with the published tensors whose rows it stacks."""
    part = BRANCHES[branch]
    outer = OUTER_NAMES | (DECODER_NAMES if part.decoder else {})
    outer |= FINAL_NAMES if part.final else {}
    names: dict[str, tuple[str, ...]] = {}
    for kind in ("weight", "bias"):
        for ours, theirs in outer.items():
            if kind == "weight" or ours not in ("values.rows", "positions"):
                names[f"{ours}.{kind}"] = (f"{theirs}.{kind}",)
        for i in range(config.depth):
            for ours, theirs in BLOCK_NAMES.items():
                published = f"encoder.transformer_encoder.{i}.{theirs}{kind}"
                names[f"blocks.{i}.{ours}.{kind}"] = (published,)
    if part.decoder:
        trunk = performer.published_names(
            config.decoder_depth, qkv_bias=True, prefix="decoder.performer."
        )
        names |= {f"trunk.{ours}": theirs for ours, theirs in trunk.items()}
    return names
