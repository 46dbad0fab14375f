"""Components and kinds read from a model's modules; its parameters may be on `meta`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from optmerge.architectures._roles import Role, kind_of

MODALITIES = {
    frozenset(("image",)): "vision",
    frozenset(("image", "video")): "vision",
    frozenset(("video",)): "video",
    frozenset(("audio",)): "audio",
}
"""What a model is that takes these and no text."""

TOWERS = frozenset(MODALITIES.values())

MAIN_INPUTS = {"pixel_values": "image", "pixel_values_videos": "video", "input_features": "audio"}
"""What a model takes that doesn't declare its modalities, by its `main_input_name`; text by any other."""

PARTS = (
    (
        "other",
        re.compile(
            r"talker|(code|token)2wav|codec|depth_?decoder|diffusion|vocoder|^dit$|^protein_"
            r"|semantic_model|t2u_|(prediction|flow|timestep)_head|ctc_timestamp|^generation_",
            re.IGNORECASE,
        ),
    ),
    (
        "projector",
        re.compile(
            r"project(or|ion)|connector|merger|resampler|perceiver?|abstractor|aligner|qformer|adapt[eo]r"
            r"|multi_?modal_?embedder|query_tokens|newline|view_sep|mlp_AR|embed_(vision|audio)$|^mm_|^mlp1$|enc_to_dec",
            re.IGNORECASE,
        ),
    ),
    ("language", re.compile(r"^(language_model|text_model|text_decoder|llm|embed_text_tokens)$")),
    ("video", re.compile(r"^video_")),
    ("vision", re.compile(r"^(image|sam|vit)(_|$)|^vq_?(model|vae)|(^|_)(vision|visual)(_|$)")),
    ("audio", re.compile(r"^(audio|speech|acoustic|semantic_tokenizer|perception|sound)(_|$)")),
)
"""Components by names that models share, outermost first. What makes pictures, sound or codes is `other`."""

ADDED = re.compile(r"^(embed_(vision|audio)|multi_modal\w*|mm_\w+)$")
"""Projectors whose presence says that a model takes more than text; a text model has projections, too."""

IN_TOWERS = re.compile(r"merger|connector|^multi_modal_projector$", re.IGNORECASE)
"""Projectors that lie inside a tower."""

LAST_IN_TOWERS = re.compile(r"^(proj\d?|audio_bos_eos_token)$")
"""What a tower ends with where it gives the language model's width itself; a tower within one doesn't."""

READERS = re.compile(r"(^|[._])(encoder|text_decoder)$")
"""Parts of a model of sound that are made for text."""

PATCHES = re.compile(r"PatchEmbed(ding)?s?$")
"""Classes that embed an image, also within a model of text."""

ROUTERS = re.compile(r"(Router|Gating|Gate)$")
"""Classes that choose among experts, where they stand beside experts."""

HEADS = re.compile(r"^((\w+_)?lm_heads?|embed_out|score)$")
"""Output layers that `get_output_embeddings` may not give, since there are several or none is of words."""

IN_OUT = {
    "Llama4TextExperts": ("gate_up_proj", "down_proj"),
    "DbrxExpertGLU": ("w2",),
    **dict.fromkeys(
        ("Gemma3MultiModalProjector", "T5Gemma2MultiModalProjector"), ("mm_input_projection_weight",)
    ),
    **dict.fromkeys(("InklingRelativeLogits", "Inkling2RelativeLogits"), ("proj",)),
}
"""Parameters that multiply from the right (x @ W), by class; most classes of such have `is_transposed`."""


@dataclass(frozen=True)
class Place:
    """A module and where it stands.

    Args:
        path: its name in the model.
        module: the module.
        component: the part of the model it belongs to; None where nothing around it says so.
        router: whether it chooses among experts, or is part of what does.
        tower: whether it is a tower as a whole.
        mute: whether the model around it makes something else than text.
    """

    path: str
    module: nn.Module
    component: str | None
    router: bool = False
    tower: bool = False
    mute: bool = False


def roles(model: PreTrainedModel) -> dict[str, Role]:
    """Role of every parameter and persistent buffer, by its name in memory."""
    heads = _heads(model)
    found: dict[str, Role] = {}
    for place in _places(model):
        prefix = f"{place.path}." if place.path else ""
        for leaf, parameter in place.module.named_parameters(recurse=False):
            kind = _kind(place, leaf, tuple(parameter.shape), place.module in heads)
            transposed = kind == "matrix" and _is_transposed(place.module, leaf)
            part = place.component or ("language" if place.module in heads else _by_name(leaf) or "other")
            found[prefix + leaf] = Role(part, kind, transposed)
        for leaf, _ in place.module.named_buffers(recurse=False):
            if leaf not in place.module._non_persistent_buffers_set:
                kind = "bias" if leaf.endswith("bias") else "other"
                found[prefix + leaf] = Role(place.component or "other", kind)
    return found


def _places(model: PreTrainedModel) -> Iterator[Place]:
    """Every module of the model, each after the module that holds it."""
    family, embeddings = type(model).__name__, _text_embeddings(model)
    mute, part = _is_mute(model), _by_modality(model)
    waiting = [Place("", model, _of_mute("", model, part) if mute else part, tower=True, mute=mute)]
    while waiting:
        place = waiting.pop()
        yield place
        children = dict(place.module.named_children())
        beside = any(child in embeddings or _embeds(child, embeddings) for child in children.values())
        sparse = any("expert" in f"{name} {type(child).__name__}".lower() for name, child in children.items())
        for name, child in children.items():
            path = f"{place.path}.{name}" if place.path else name
            mute = place.mute or _is_mute(child)
            part = place.component or _part(name, child, children, family)
            if place.component is None and part is None and beside and not _holds_others(child):
                part = "language"  # what stands beside the embedding of the text is the model of the text
            if place.component is None and mute:
                part = _of_mute(name, child, part)
            if place.component in TOWERS:
                last = (
                    place.tower and isinstance(place.module, PreTrainedModel) and LAST_IN_TOWERS.match(name)
                )
                part = "projector" if last or IN_TOWERS.search(name) else part
            elif part in (None, "language") and PATCHES.search(type(child).__name__):
                part = "vision"
            router = place.router or _is_router(name, child, sparse)
            waiting.append(Place(path, child, part, router, tower=place.component is None, mute=mute))


def _part(name: str, module: nn.Module, beside: Mapping[str, nn.Module], family: str) -> str | None:
    """Component of a module by its name, by the half of a model that it is, or by what it takes."""
    words = (name, _own_name(type(module).__name__, family))
    return _by_name(*words) or _by_half(name, beside) or _by_modality(module)


def _is_mute(module: nn.Module) -> bool:
    """Whether a model says that it makes something, and no text."""
    return isinstance(module, PreTrainedModel) and "text" not in getattr(
        module, "output_modalities", ("text",)
    )


def _of_mute(name: str, module: nn.Module, part: str | None) -> str | None:
    """Component in a model that makes no text: what reads or writes text stays, and the rest makes sound."""
    if part not in (None, "language") or isinstance(module, nn.Embedding) or READERS.search(name):
        return part
    return None if any(READERS.search(path) for path, _ in module.named_modules()) else "other"


def _by_name(*words: str) -> str | None:
    """Component of a module by its name, or by its class's; towers by the module's name alone."""
    for component, pattern in PARTS:
        if any(
            pattern.search(word) for word in (words if component in ("other", "projector") else words[:1])
        ):
            return component
    return None


def _by_half(name: str, children: Mapping[str, nn.Module]) -> str | None:
    """Component of an encoder that takes something else than text, or of the decoder beside it."""
    if not {"encoder", "decoder"} <= children.keys():
        return None
    inner = dict(children[name].named_modules()) if name in ("encoder", "decoder") else {}
    embeds = [path for path, module in inner.items() if isinstance(module, nn.Embedding)]
    if name == "decoder":
        return "language" if embeds else None
    if any(path.endswith("embed_tokens") for path in embeds):
        return None
    return MODALITIES.get(_modalities(children["encoder"]) - {"text"})


def _by_modality(module: nn.Module) -> str | None:
    """Component of a model by what it takes; None where it holds parts that are something else."""
    taken = _modalities(module)
    if "text" in taken:
        return None if _holds_others(module) else "language"
    return None if _writes_text(module) else MODALITIES.get(taken)


def _modalities(module: nn.Module) -> frozenset[str]:
    """What a model takes; nothing for a module that is no model."""
    if not isinstance(module, PreTrainedModel):
        return frozenset()
    declared = module.input_modalities
    if not any(
        "input_modalities" in vars(each) for each in type(module).__mro__ if each is not PreTrainedModel
    ):
        declared = MAIN_INPUTS.get(module.main_input_name, "text")
    return frozenset((declared,) if isinstance(declared, str) else declared)


def _holds_others(module: nn.Module) -> bool:
    """Whether a part of a module, not of one of its layers, is a tower or makes something else than text."""
    for path, each in module.named_modules():
        *around, name = path.split(".")
        if any(part.isdigit() for part in around):
            continue
        if path and (_by_name(name) not in (None, "language", "projector") or ADDED.match(name)):
            return True
        if (path and MODALITIES.get(_modalities(each))) or _by_half("encoder", dict(each.named_children())):
            return True
    return False


def _writes_text(module: nn.Module) -> bool:
    """Whether a part of a module is a decoder with embeddings."""
    return any(
        path.rpartition(".")[2] in ("decoder", "text_decoder")
        and any(isinstance(inner, nn.Embedding) for inner in each.modules())
        for path, each in module.named_modules()
        if path
    )


def _embeds(module: nn.Module, embeddings: set[nn.Module]) -> bool:
    """Whether a module is the embedding of text and positions together."""
    return any(child in embeddings for child in module.children()) and "Embedding" in type(module).__name__


def _own_name(name: str, family: str) -> str:
    """A class's name without what it has in common with the whole model's."""
    same = next((i for i, (a, b) in enumerate(zip(name, family, strict=False)) if a != b), len(family))
    return name[same:]


def _text_embeddings(model: PreTrainedModel) -> set[nn.Module]:
    """Input embeddings of the whole and of its text models, where the class can tell."""
    found = set()
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            try:
                found.add(module.get_input_embeddings())
            except (AttributeError, NotImplementedError):
                continue
    return {module for module in found if isinstance(module, nn.Embedding)}


def _heads(model: PreTrainedModel) -> set[nn.Module]:
    """Output embeddings of the whole and of its submodels."""
    found: set[nn.Module] = set()
    for path, module in model.named_modules():
        if isinstance(module, PreTrainedModel) and isinstance(
            head := module.get_output_embeddings(), nn.Module
        ):
            found.add(head)
        name = path.removesuffix(f".{path.rpartition('.')[2]}") if path[-1:].isdigit() else path
        if isinstance(module, nn.Linear) and HEADS.match(name.rpartition(".")[2]):
            found.add(module)
    return found


def _is_router(name: str, module: nn.Module, sparse: bool) -> bool:
    """Whether a module chooses among experts: a plain layer beside them by its name, else by its class."""
    if isinstance(module, nn.Linear):
        return sparse and name in ("gate", "router")
    return (sparse or name == "router") and ROUTERS.search(type(module).__name__) is not None


def _kind(place: Place, leaf: str, shape: tuple[int, ...], is_head: bool) -> str:
    """Kind of a parameter by the class of the module that holds it; by its name where that says nothing."""
    module, name = place.module, type(place.module).__name__
    if leaf.endswith("bias"):
        return "bias"
    if is_head:
        return "head"
    if "Norm" in name:
        return "norm"
    if place.router and len(shape) > 1:
        return "router"
    if isinstance(module, nn.Linear | Conv1D):
        return "matrix"
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return "embedding"
    if isinstance(module, nn.modules.conv._ConvNd) or (
        "Conv" in name and prod(shape) > max(shape, default=1)
    ):
        return "conv"
    if len(shape) > 1 and re.search(r"Experts?(GLU|MLP)?$|Linear$", name):
        return "matrix"
    if len(shape) > 1 and leaf == "weight" and name.endswith("Head"):
        return "head"
    if len(shape) == 2 and leaf == "proj":
        return "matrix"
    if len(shape) > 1 and leaf == "weight" and re.search(r"Embeddings?$", name):
        return "embedding"
    return kind_of(f"{place.path}.{leaf}", shape)


def _is_transposed(module: nn.Module, leaf: str) -> bool:
    """Whether a matrix of a module is stored (in, out)."""
    return (
        isinstance(module, Conv1D)
        or bool(getattr(module, "is_transposed", False))
        or leaf in IN_OUT.get(type(module).__name__, ())
    )
