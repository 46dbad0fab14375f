"""The vocabulary of roles, and the kind of a tensor, which every family shares.

Kinds follow the module that would hold the tensor in memory. Raw parameters have no such module; for them:

* a table with one row per position is an `embedding`, stored as `nn.Embedding` or not;
* a single learned vector (class or mask token, image newline), a gate and a layer scale are `other`;
* experts stacked in three dimensions are a `matrix` (one per expert).

What scores the experts of a mixture is a `router`; the gate of a shared expert, which chooses nothing, is a
`matrix`. A fused matrix (qkv, gate_up) is one matrix.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

COMPONENTS: tuple[str, ...] = ("language", "vision", "audio", "video", "projector", "other")
KINDS: tuple[str, ...] = ("matrix", "router", "embedding", "head", "norm", "bias", "conv", "other")


@dataclass(frozen=True)
class Role:
    """What a tensor is: component and kind.

    Args:
        component: the part of the model that holds it, one of `COMPONENTS`.
        kind: what it does there, one of `KINDS`.
        transposed: a matrix stored (in, out); a method that wants (out, in) swaps the last two axes first.
    """

    component: str
    kind: str
    transposed: bool = False


@dataclass(frozen=True)
class KindRule:
    """Tensors whose name matches `pattern` (re.search) and whose rank is in `ndims` (any, if empty)."""

    kind: str
    pattern: str
    ndims: tuple[int, ...] = ()

    def matches(self, name: str, shape: tuple[int, ...]) -> bool:
        """Whether the rule speaks about this tensor."""
        return (not self.ndims or len(shape) in self.ndims) and re.search(self.pattern, name) is not None


# First match wins. Shape decides where names can't: CLIP's `patch_embedding.weight` is a convolution.
KIND_RULES: tuple[KindRule, ...] = (
    KindRule("bias", r"(^|[._])bias$"),
    KindRule("head", r"(^|\.)(lm_head|embed_out|score)\.weight$"),
    KindRule("norm", r"\.weight$", (1,)),
    KindRule("norm", r"(^|\.)(\w*norm\d*|ln_\w+)\.weight$"),  # one row per head, say
    KindRule(
        "router",
        r"(^|\.)(mlp|block_sparse_moe|feed_forward|ffn|moe|mixer)\.gate(\.wg)?\.weight$",
        (2,),
    ),
    KindRule("router", r"(^|\.)router(\.(classifier|layer))?\.weight$", (2,)),
    KindRule("matrix", r"(^|\.)(experts|block_sparse_moe)\.", (3,)),
    KindRule("conv", r"\.weight$", (3, 4, 5)),
    KindRule("other", r"(^|\.)(class|cls)_embedding$"),
    KindRule("matrix", r"(^|\.)patch_embed(ding)?s?\.weight$", (2,)),
    KindRule(
        "embedding",
        r"(^|\.)(\w*embed(ding)?s?(_tokens(_per_layer)?|_positions)?|wte|wpe)(\.weight)?$",
        (2, 3, 4),
    ),
    KindRule(
        "embedding",
        r"(^|\.)(shared|embed_in|embed_tokens\.\d+|\w+_emb|relative_attention_bias)\.weight$",
        (2,),
    ),
    KindRule("matrix", r"([._]weight|_proj)$", (2,)),
)


def kind_of(name: str, shape: tuple[int, ...], first: tuple[KindRule, ...] = ()) -> str:
    """Kind of a tensor by the rules of `first`, then the shared ones; `other` when none speaks."""
    return next((rule.kind for rule in (*first, *KIND_RULES) if rule.matches(name, shape)), "other")
