"""The lora line's family: a tiny Qwen2-VL; vision tower and language model both use rotary positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optmerge.bench.lines.tiny.family import TinyFamily, TinySize
from optmerge.bench.lines.tiny.tokenizer import END, STOP
from optmerge.bench.tasks import SIDE

OPEN, CLOSE, PIECE, VIDEO = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"

# Qwen2-VL's own layout, without the system message that the real template adds to every chat.
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def images(size: TinySize) -> Any:
    """Qwen2-VL's image processor; a picture of `SIDE`×`SIDE` pixels keeps its size."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    pixels = {"shortest_edge": SIDE * SIDE, "longest_edge": SIDE * SIDE}
    return Qwen2VLImageProcessorPil(size=pixels, patch_size=size.patch, merge_size=size.merge)


def reload(settings: Mapping[str, Any]) -> Any:
    """The image processor of its saved settings."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    return Qwen2VLImageProcessorPil.from_dict(settings)


def model(size: TinySize, tokenizer: Any) -> Any:
    """A randomly initialised `Qwen2VLForConditionalGeneration`."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    token = tokenizer.convert_tokens_to_ids
    vision = {
        "depth": size.vision_layers,
        "embed_dim": size.vision_width,
        "hidden_size": size.width,
        "num_heads": size.vision_width // 32,
        "patch_size": size.patch,
        "spatial_merge_size": size.merge,
    }
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": size.width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.groups,
        "intermediate_size": size.mlp,
        "max_position_embeddings": 1024,
        # Of a head's 16 frequencies: time, row, column, in the shares the real models give them.
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]},
        "bos_token_id": None,
        "eos_token_id": token(END),
        "pad_token_id": token(STOP),
    }
    config = Qwen2VLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=token(PIECE),
        video_token_id=token(VIDEO),
        vision_start_token_id=token(OPEN),
        vision_end_token_id=token(CLOSE),
        tie_word_embeddings=True,
    )
    return Qwen2VLForConditionalGeneration(config)


def settings(image_processor: Any, pieces: int) -> Mapping[str, Mapping[str, Any]]:
    """The files of `Qwen2VLProcessor.save_pretrained`, and both halves under their older names."""
    image = image_processor.to_dict()
    # The name without `Pil` is the one both back ends answer to.
    image["image_processor_type"] = "Qwen2VLImageProcessor"
    video = dict(image) | {"video_processor_type": "Qwen2VLVideoProcessor"}
    del video["image_processor_type"]
    name = {"processor_class": "Qwen2VLProcessor"}
    return {
        "processor_config.json": name | {"image_processor": image, "video_processor": video},
        "preprocessor_config.json": image | name,
        "video_preprocessor_config.json": video | name,
    }


FAMILY = TinyFamily(
    kind="qwen2_vl",
    special=(OPEN, CLOSE, PIECE, VIDEO),
    extra={"image_token": PIECE, "video_token": VIDEO, "vision_bos_token": OPEN, "vision_eos_token": CLOSE},
    template=TEMPLATE,
    mark=PIECE,
    image=PIECE,
    open="",
    close="",
    axes=3,
    images=images,
    reload=reload,
    model=model,
    merge=lambda config: config.vision_config.spatial_merge_size,
    settings=settings,
)
