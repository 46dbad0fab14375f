"""The full line's family: a tiny InternVL, Qwen2 reading a ViT's patches through pixel shuffle and an MLP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optmerge.bench.lines.tiny.family import TinyFamily, TinySize
from optmerge.bench.lines.tiny.tokenizer import END, STOP
from optmerge.bench.tasks import SIDE

OPEN, CLOSE, PIECE, VIDEO = "<img>", "</img>", "<IMG_CONTEXT>", "<video>"

# InternVL's own layout; the processor turns one image mark into <img>, the image's tokens, </img>.
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<IMG_CONTEXT>\n"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def images(size: TinySize) -> Any:
    """InternVL's image processor, set to one view per image; tiles are for images larger than the tower."""
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    side = {"height": SIDE, "width": SIDE}
    return GotOcr2ImageProcessorPil(
        size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3, crop_to_patches=False, max_patches=1
    )


def reload(settings: Mapping[str, Any]) -> Any:
    """The image processor of its saved settings."""
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    return GotOcr2ImageProcessorPil.from_dict(settings)


def model(size: TinySize, tokenizer: Any) -> Any:
    """A randomly initialised `InternVLForConditionalGeneration`."""
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    token = tokenizer.convert_tokens_to_ids
    vision = {
        "hidden_size": size.vision_width,
        "num_hidden_layers": size.vision_layers,
        "num_attention_heads": size.vision_width // 32,
        "intermediate_size": 4 * size.vision_width,
        "image_size": SIDE,
        "patch_size": size.patch,
        "layer_scale_init_value": 1.0,
    }
    text = {
        "model_type": "qwen2",
        "vocab_size": len(tokenizer),
        "hidden_size": size.width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.groups,
        "intermediate_size": size.mlp,
        "max_position_embeddings": 1024,
        "bos_token_id": None,
        "eos_token_id": token(END),
        "pad_token_id": token(STOP),
        "tie_word_embeddings": True,
        # As the shipped models have it; the lora line, whose language model this becomes, has 1e-5.
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    }
    config = InternVLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=token(PIECE),
        image_seq_length=size.grid**2,
        downsample_ratio=1 / size.merge,
        tie_word_embeddings=True,
    )
    return InternVLForConditionalGeneration(config)


def settings(image_processor: Any, pieces: int) -> Mapping[str, Mapping[str, Any]]:
    """The files of `InternVLProcessor.save_pretrained`, and the image half under its older name."""
    image = image_processor.to_dict()
    # The name without `Pil` is the one both back ends answer to.
    image["image_processor_type"] = "GotOcr2ImageProcessor"
    video = {key: image[key] for key in ("image_mean", "image_std", "size", "resample", "do_resize")}
    video |= {"video_processor_type": "InternVLVideoProcessor", "return_metadata": False}
    both = {"processor_class": "InternVLProcessor", "image_seq_length": pieces}
    return {
        "processor_config.json": both | {"image_processor": image, "video_processor": video},
        "preprocessor_config.json": image | {"processor_class": "InternVLProcessor"},
    }


FAMILY = TinyFamily(
    kind="internvl",
    special=(OPEN, CLOSE, PIECE, VIDEO),
    extra={
        "start_image_token": OPEN,
        "end_image_token": CLOSE,
        "context_image_token": PIECE,
        "video_token": VIDEO,
    },
    template=TEMPLATE,
    mark=PIECE,
    image=PIECE,
    open=OPEN,
    close=CLOSE,
    axes=1,
    images=images,
    reload=reload,
    model=model,
    merge=lambda config: round(1 / config.downsample_ratio),
    settings=settings,
)
