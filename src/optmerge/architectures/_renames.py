"""Renames and components that several families share, because transformers renamed the families together."""

from __future__ import annotations

Rules = tuple[tuple[str, str], ...]

TEXT_RENAMES: Rules = ((r"^(embed_tokens|layers|norm)\.", r"model.\1."),)
"""A text model saved without its head loses the `model.` level."""

TEXT_COMPONENTS: Rules = ((r"(model|lm_head|score)\.", "language"),)

LANGUAGE: Rules = ((r"(model\.language_model|lm_head)\.", "language"),)

QWEN_VL_COMPONENTS: Rules = (
    *LANGUAGE,
    # The mergers lie inside the vision tower, but they are what other families call the projector.
    (r"model\.visual\.(merger|deepstack_merger_list)\.", "projector"),
    (r"model\.visual\.", "vision"),
    (r"model\.audio_tower\.(proj|audio_bos_eos_token)\.", "projector"),
    (r"model\.audio_tower\.", "audio"),
)

QWEN_VL_RENAMES: Rules = (
    (r"^thinker\.", ""),
    (r"^(visual|audio_tower|language_model)\.", r"model.\1."),  # until 4.51, and what save_pretrained writes
    (r"^model\.(?!(visual|audio_tower|language_model)\.)", "model.language_model."),
)

EXPERT_RENAMES: Rules = (
    (r"\.block_sparse_moe\.", ".mlp."),
    (r"(\.experts\.\d+)\.w1\.", r"\1.gate_proj."),
    (r"(\.experts\.\d+)\.w2\.", r"\1.down_proj."),
    (r"(\.experts\.\d+)\.w3\.", r"\1.up_proj."),
)


def composed_renames(*parts: str) -> Rules:
    """Renames of a model composed of a causal language model and other parts, LLaVA first of all.

    Until transformers 4.51 the language model was a whole causal one (`language_model.model.layers`,
    `language_model.lm_head`) beside the others, which save_pretrained still writes; since then everything but
    the head lives under `model.`. The `vision_model.` level in CLIP and SigLIP towers went later.
    """
    beside = "|".join(("language_model", *parts))
    return (
        (r"^language_model\.lm_head\.", "lm_head."),
        (r"^(model\.)?language_model\.model\.(model\.)?", "model.language_model."),
        (rf"^({beside})(?=\.|$)", r"model.\1"),
        (r"^model\.(vision|image|video)_tower\.vision_model\.", r"model.\1_tower."),
    )
