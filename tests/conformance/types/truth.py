"""What every parameter of a model is, found without the product: from its module, and by hand.

The kind is that of the module which holds the parameter. The component comes from `WORDS` and, where those
mislead, from `EXCEPTIONS`, both written from the modelling code. A name that neither explains is an error, so
a new type is looked at by somebody. Where the field has no one answer, several are accepted: a type's
queries are an embedding or something else; a generator of speech is audio or something else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from worlds.model_types import TEXT

Some = frozenset[str]


@dataclass(frozen=True)
class Truth:
    """Accepted components and kinds of a parameter."""

    components: Some
    kinds: Some

    def __or__(self, other: Truth) -> Truth:
        return Truth(self.components | other.components, self.kinds | other.kinds)


# --- components

_WORDS = {
    "projector": (
        r"(mm_|multi_?modal_)?(projector|connector)|\w+_projectors|(deepstack_)?merger(_list)?|aligner|resampler"
        r"|perceiver(_resampler)?|qformer|query_tokens|language_projection|image_newline|view_sep\w*"
        r"|embed_vision|embed_audio|visual_projection|text_projection|(image|vision|visual|audio|speech)_projection"
        r"|multimodal_projector|audio_projector|speech_projector|patch_merger|\w+_projector|image_to_text_projection"
    ),
    "audio": r"audio_(tower|model|encoder)|audio|speech_encoder|acoustic_\w+|semantic_\w+",
    "video": r"video_tower",
    "vision": r"(vision|visual|image|img)(_(tower|model|encoder))?|vqmodel|vpm|sam_model|vit",
    "language": r"language_model|text_(model|decoder|encoder)|lm_head|llm",
}
WORDS = {component: re.compile(words) for component, words in _WORDS.items()}
"""Segments of a name that say the component, whatever the type; the first component with any wins."""

_SPEECH_TO_TEXT = (
    (r"model\.encoder\.", "audio"),
    (r"model\.decoder\.proj\.", "language|projector"),
    (r"model\.decoder\.|proj_out\.", "language"),
)
_JOINT_SPACE = (
    (r"text_projection", "projector|language"),
    (r"(visual|image)_projection", "projector|vision"),
    (r"audio_projection", "projector|audio"),
    (r"logit_(scale|bias)", "other"),
    (r"text_model\.head\.", "language|projector"),
)
_CODEC = (r"(codec_model|depth_decoder|talker|token2wav|code2wav)\.", "audio|other")
# The last layer of an audio tower that gives the language model's width.
_AUDIO_PROJECTION = (r"(thinker\.)?model\.audio_tower\.(proj\d?|audio_bos_eos_token)\b", "projector|audio")
_LANGUAGE_AT_ROOT = (r"(model\.(embed_tokens|layers|norm|gated_cross_attn_layers)|lm_head)\b", "language")

# type → ((start of a name, components), …); looked at before `WORDS`.
EXCEPTIONS: dict[str, tuple[tuple[str, str], ...]] = {
    **dict.fromkeys(
        ("altclip", "chinese_clip", "clap", "clip", "metaclip_2", "siglip", "siglip2"), _JOINT_SPACE
    ),
    **dict.fromkeys(("canary", "cohere_asr", "moonshine", "speech_to_text", "whisper"), _SPEECH_TO_TEXT),
    **dict.fromkeys(("qwen2_5_omni_thinker", "qwen3_omni_moe_thinker"), (_AUDIO_PROJECTION,)),
    **dict.fromkeys(("qwen2_5_omni", "qwen3_omni_moe"), (_AUDIO_PROJECTION, _CODEC)),
    **dict.fromkeys(("granite_speech", "granite_speech_plus"), ((r"model\.encoder\.", "audio"),)),
    **dict.fromkeys(
        ("minicpm_ocr", "minicpmv4_6", "minicpmv4_7"), ((r".*\.vit_merger\.", "vision|projector"),)
    ),
    **dict.fromkeys(
        ("muse_glimmer", "muse_spark"),
        (_AUDIO_PROJECTION, (r"model\.(vision_adapter|vision_projection)\.", "projector")),
    ),
    **dict.fromkeys(("idefics", "mistral4", "moshi"), (_LANGUAGE_AT_ROOT,)),
    # The two streams' own halves of layers that see both.
    "bridgetower": (
        (r"cross_modal_text", "language|projector|other"),
        (r"cross_modal_image", "vision|projector|other"),
        (r"token_type_embeddings", "language|other"),
    ),
    "chameleon": (_LANGUAGE_AT_ROOT,),
    "colpali": ((r"embedding_proj_layer", "projector|language|other"),),
    "csm": (
        (r"embed_text_tokens|backbone_model\.(layers|norm)", "language"),
        (r"backbone_model\.embed_tokens|lm_head", "language|audio"),
        _CODEC,
    ),
    "deepseek_vl_hybrid": (
        (r"model\.high_res_vision_(alpha|neck|proj)", "vision|projector"),
        (r"model\.high_res_vision_model\.", "vision"),
    ),
    "dia": ((r"model\.encoder\.", "language"), (r"model\.decoder\.|logits_dense", "audio|other")),
    "diffusion_gemma": ((r"model\.decoder\.", "language"),),
    "dinov2": ((r"", "vision"),),
    # Vision tokens of the language model have experts of their own.
    "ernie4_5_vl_moe": (
        (r".*\.vision_moe\.", "language|vision"),
        (r"model\.resampler_model\.", "projector"),
    ),
    "dots3_note": (
        (r"model\.audio_tower\.adapter\.", "audio|projector"),
        (r"model\.vision_tower\.(adapter|merger)\.", "vision|projector"),
    ),
    "evolla": (
        (r"model\.protein_encoder\.sequence_compressor_resampler\.", "projector|other"),
        (r"model\.protein_encoder\.", "other"),
        (r"model\.layers\.\d+\.adapter\.", "language|projector"),
        _LANGUAGE_AT_ROOT,
    ),
    "flava": (
        (r"multimodal_model\.", "language|vision|projector|other"),
        (r"(image|text)_to_mm_projection\.", "projector"),
        *_JOINT_SPACE,
    ),
    "fuyu": ((r"model\.vision_embed_tokens\.", "projector|vision"),),
    "git": ((r"git\.(embeddings|encoder)\.|output\.", "language"),),
    "higgs_audio_v2": (
        (r"model\.layers\.\d+\.audio_", "language|audio"),
        (r"model\.embed_audio_tokens|audio_lm_head", "language|audio|other"),
        _LANGUAGE_AT_ROOT,
    ),
    "janus": (
        (r"model\.generation_(embeddings|head)\.", "vision|projector|other"),
        (r"model\.generation_aligner\.", "projector|vision|other"),
    ),
    "kyutai_speech_to_text": (_CODEC, (r"model\.embed_tokens", "language|audio"), _LANGUAGE_AT_ROOT),
    "llama4": ((r"vision_model\.vision_adapter\.", "vision|projector"),),
    "musicgen": (
        (r"text_encoder\.", "language"),
        (r"audio_encoder\.", "audio|other"),
        (r"decoder\.", "audio|other"),
        (r"enc_to_dec_proj", "projector"),
    ),
    "nemo_speechlm": ((r"model\.word_timestamp_encoder\.|word_timestamp_head", "audio|other"),),
    "ovis2": (
        (r"model\.visual_embeddings_table", "projector|vision"),
        (r"model\.vision_tower\.head_", "vision|projector"),
    ),
    "phi4_multimodal": (
        (r"model\.embed_tokens_extend\.image_embed\.(img_projection|\w+_extensor)", "projector|vision"),
        (r"model\.embed_tokens_extend\.image_embed\.", "vision"),
        (r"model\.embed_tokens_extend\.audio_embed\.encoder\.", "audio"),
        (r"model\.embed_tokens_extend\.audio_embed\.", "projector|audio"),
        _LANGUAGE_AT_ROOT,
    ),
    "pi0": ((r"model\.dit\.|embed_action_time|action_out_proj", "other"),),
    "pix2struct": ((r"encoder\.", "vision"), (r"decoder\.", "language")),
    "pp_formulanet": ((r"model\.encoder\.(?!multi_modal)", "vision"), (r"model\.decoder\.", "language")),
    "seamless_m4t_v2": ((r"shared|text_(en|de)coder\.", "language"),),
    "step3p7": ((r"model\.vision_model\.downsampler", "vision|projector"),),
    "t5gemma2": ((r"model\.decoder\.", "language"),),
    "udop": (
        (r"patch_embed\.|(en|de)coder\.embed_patches\.", "vision"),
        (r"encoder\.cell_2d_embedding\.", "language|vision|other"),
        (r"shared|(en|de)coder\.|lm_head", "language"),
    ),
    "vibevoice": (
        (r"model\.diffusion_head\.", "audio|other"),
        (r"model\.latent_", "audio|projector|other"),
        (r"model\.semantic_connector\.", "projector"),
    ),
    # One stream that both modalities share.
    "vilt": ((r"", "language|vision|other"),),
    "vision-encoder-decoder": (
        (r"encoder\.", "vision"),
        (r"decoder\.", "language"),
        (r"enc_to_dec_proj", "projector"),
    ),
    "vit": ((r"", "vision"),),
    "wav2vec2": ((r"wav2vec2\.", "audio"), (r"lm_head", "audio|language")),
}


def components_of(model_type: str, name: str) -> Some:
    """Accepted components of a parameter.

    Raises:
        LookupError: nothing says what it belongs to.
    """
    for start, components in EXCEPTIONS.get(model_type, ()):
        if re.match(start, name):
            return frozenset(components.split("|"))
    if model_type in TEXT:
        return frozenset(("language",))
    segments = name.split(".")
    for component, words in WORDS.items():
        if any(words.fullmatch(segment) for segment in segments):
            return frozenset((component,))
    raise LookupError(f"{model_type}: nobody has said what {name} belongs to")


# --- kinds

# Parameters without a module of their own: (pattern of the name, kinds); the first match wins.
_RAW: tuple[tuple[str, str], ...] = (
    (r"weight_(ih|hh)_l\d+$", "matrix|other"),
    (r"in_proj_weight$|mm_input_projection_weight$", "matrix"),
    (r"rel_logits_proj\.proj$", "matrix|embedding|other"),
    (r"parametrizations\.weight\.", "conv|norm|other"),
    (r"static_weight$|conv_kernel$|conv1d_weight$", "conv|other"),
    (r"_hc\.fn$|hc_fn$|index_kpool_compress_(ape|gate)$|rg_lru\.\w+_gate_weight$", "matrix|other"),
    (r"codebooks_head\.weight$", "head|matrix"),
    (r"\.bias_[uvk]$", "bias|embedding|other"),
    (r"\.scale$|\.A_log$|time_mix|time_\w+$|lora|layer_scale", "other|norm"),
    (r"(pos|position)\w*(emb|table|ids)?\w*(\.weight|\.embedding)?$|pos_emb|rel_pos", "embedding|other"),
    (r"(latent|query|queries|probe|tokens?|latents|bias_k|bias_v)\w*$|query", "embedding|other"),
)


def kinds_of(module: nn.Module, name: str, parameter: nn.Parameter, *, is_head: bool) -> Some:
    """Accepted kinds of one parameter of a module.

    Raises:
        LookupError: nothing says what it is.
    """
    own = name.rpartition(".")[2]
    if own == "bias" or own.endswith("_bias"):
        return frozenset(("bias",) if own == "bias" else ("bias", "other"))
    if "norm" in type(module).__name__.lower() and parameter.ndim <= 2:
        return frozenset(("norm",))
    if isinstance(module, nn.Embedding):
        return frozenset(("embedding",))
    if isinstance(module, nn.modules.conv._ConvNd):
        return frozenset(("conv",))
    if (
        parameter.ndim == 2
        and re.search(r"(^|\.)(gate|router)(\.\w+)?\.weight$", name)
        and len(parameter) > 1
    ):
        return frozenset(("router",))
    if isinstance(module, nn.Linear | Conv1D):
        if re.search(r"(audio|codec|code)\w*_head(s?\.\d+)?\.weight$|lm_heads\.", name):
            return frozenset(("head", "matrix"))  # of codes, which are no words
        return frozenset(
            ("head",) if is_head or re.search(r"(^|\.)lm_head\.(\d+\.)?weight$", name) else ("matrix",)
        )
    for pattern, kinds in _RAW:
        if re.search(pattern, name):
            return frozenset(kinds.split("|"))
    if parameter.ndim >= 2 and re.search(r"(^|\.)\w*experts?\.|_linear\.weight$", name):
        return frozenset(("matrix",))
    if parameter.squeeze().ndim <= 1:
        return frozenset(("other", "norm"))
    raise LookupError(f"nobody has said what {name} {tuple(parameter.shape)} of a {type(module).__name__} is")


def truths(model_type: str, model: PreTrainedModel) -> dict[str, Truth]:
    """Every parameter of a model, by its name in memory; tied ones once, with all that their modules say."""
    found: dict[int, tuple[str, Truth]] = {}
    heads = {id(module) for module in _heads(model)}
    for path, module in model.named_modules():
        for own, parameter in module.named_parameters(recurse=False):
            name = f"{path}.{own}" if path else own
            truth = Truth(
                components_of(model_type, name),
                kinds_of(module, name, parameter, is_head=id(module) in heads),
            )
            if id(parameter) in found:
                first, other = found[id(parameter)]
                found[id(parameter)] = first, other | truth
            else:
                found[id(parameter)] = name, truth
    return dict(found.values())


def _heads(model: PreTrainedModel) -> Iterator[nn.Module]:
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            try:
                head = module.get_output_embeddings()
            except (NotImplementedError, AttributeError, TypeError):
                continue
            if isinstance(head, nn.Module):
                yield head
