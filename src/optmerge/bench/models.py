"""A tiny real InternVL with tokenizer, chat template and PIL processor; needs no torchvision."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from optmerge.errors import CheckpointError

if TYPE_CHECKING:
    from PIL import Image

PAD, UNKNOWN, START, END = "<pad>", "<unk>", "<|im_start|>", "<|im_end|>"
IMAGE_START, IMAGE_END, IMAGE, VIDEO = "<img>", "</img>", "<IMG_CONTEXT>", "<video>"
SPECIAL = (PAD, UNKNOWN, START, END, IMAGE_START, IMAGE_END, IMAGE, VIDEO)
ROLES = ("system", "user", "assistant")

# InternVL's own layout; the processor turns one image mark into <img>, the image's tokens, </img>.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<IMG_CONTEXT>\n"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Size:
    """Shape of a tiny InternVL: about 1.8 M parameters as it stands (image and patch in pixels)."""

    image: int = 64
    patch: int = 8
    vision_width: int = 128
    vision_layers: int = 3
    width: int = 160
    layers: int = 4
    heads: int = 5
    mlp: int = 432

    @property
    def image_tokens(self) -> int:
        """Tokens an image becomes: pixel shuffle joins 2×2 patches into one."""
        return (self.image // self.patch // 2) ** 2


@dataclass(frozen=True)
class Processor:
    """Questions and images → model inputs: `InternVLProcessor` without its video half (torchvision)."""

    image_processor: Any
    tokenizer: Any
    image_seq_length: int

    def pixels(self, images: Sequence[Image.Image]) -> Tensor:
        """Normalised images, (image, 3, height, width) float32."""
        batch = self.image_processor(images=list(images), return_tensors="pt")
        return torch.as_tensor(batch["pixel_values"], dtype=torch.float32)

    def prompt(self, question: str) -> str:
        """The chat up to where the assistant answers, for one image and one question."""
        content = [{"type": "image"}, {"type": "text", "text": question}]
        chat = [{"role": "user", "content": content}]
        text: str = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        return text.replace(IMAGE, IMAGE_START + IMAGE * self.image_seq_length + IMAGE_END)

    def tokens(self, question: str) -> list[int]:
        """Token ids of `prompt(question)`."""
        ids: list[int] = self.tokenizer(self.prompt(question), add_special_tokens=False)["input_ids"]
        return ids

    def save(self, folder: Path) -> None:
        """Write the files `InternVLProcessor.save_pretrained` writes, so that `AutoProcessor` loads them."""
        self.tokenizer.save_pretrained(folder)
        image = self.image_processor.to_dict()
        # The name without `Pil` is the one both back ends answer to.
        image["image_processor_type"] = "GotOcr2ImageProcessor"
        video = {key: image[key] for key in ("image_mean", "image_std", "size", "resample", "do_resize")}
        video |= {"video_processor_type": "InternVLVideoProcessor", "return_metadata": False}
        both = {"processor_class": "InternVLProcessor", "image_seq_length": self.image_seq_length}
        write_json(
            folder / "processor_config.json", both | {"image_processor": image, "video_processor": video}
        )
        # Older releases and other tools look for the image half under this name.
        write_json(folder / "preprocessor_config.json", image | {"processor_class": "InternVLProcessor"})


def write_json(path: Path, value: object) -> None:
    """Write JSON with sorted keys, so that equal values give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, sort_keys=True, default=str) + "\n", encoding="utf-8")


def build_tokenizer(words: Iterable[str]) -> Any:
    """A word-level fast tokenizer that knows `words` (lower case; a punctuation mark is a word)."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {
        word: rank for rank, word in enumerate((*SPECIAL, *ROLES, *sorted(set(words) - set(ROLES))))
    }
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"[^\w\s]"), "isolated")]
    )
    tokenizer.add_special_tokens(list(SPECIAL))
    extra = {"start_image_token": IMAGE_START, "end_image_token": IMAGE_END}
    extra |= {"context_image_token": IMAGE, "video_token": VIDEO}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNKNOWN, eos_token=END, padding_side="left",
        extra_special_tokens=extra, chat_template=CHAT_TEMPLATE,
        model_max_length=256, clean_up_tokenization_spaces=False,
    )  # fmt: skip


def build_processor(words: Iterable[str], size: Size) -> Processor:
    """The processor of a model of this size that speaks `words`."""
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    side = {"height": size.image, "width": size.image}
    # One view per image: InternVL's tiles are for images larger than the vision tower.
    images = GotOcr2ImageProcessorPil(
        size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3, crop_to_patches=False, max_patches=1
    )
    return Processor(images, build_tokenizer(words), size.image_tokens)


def build_model(processor: Processor, size: Size, *, seed: int) -> Any:
    """A randomly initialised `InternVLForConditionalGeneration` in float32."""
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    token = processor.tokenizer.convert_tokens_to_ids
    vision = {
        "hidden_size": size.vision_width, "num_hidden_layers": size.vision_layers,
        "num_attention_heads": size.vision_width // 32, "intermediate_size": 4 * size.vision_width,
        "image_size": size.image, "patch_size": size.patch, "layer_scale_init_value": 1.0,
    }  # fmt: skip
    text = {
        "model_type": "qwen2", "vocab_size": len(processor.tokenizer), "hidden_size": size.width,
        "num_hidden_layers": size.layers, "num_attention_heads": size.heads, "num_key_value_heads": 1,
        "intermediate_size": size.mlp, "max_position_embeddings": 256, "tie_word_embeddings": True,
        "bos_token_id": None, "eos_token_id": token(END), "pad_token_id": token(PAD),
    }  # fmt: skip
    config = InternVLConfig(
        vision_config=vision, text_config=text, image_token_id=token(IMAGE),
        image_seq_length=size.image_tokens, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = InternVLForConditionalGeneration(config)
    stop = {"eos_token_id": token(END), "pad_token_id": token(PAD), "do_sample": False}
    model.generation_config.update(**stop)
    return model


def load(folder: Path | str, *, dtype: torch.dtype = torch.float32) -> tuple[Any, Processor]:
    """Model (in eval mode) and processor of a folder that `save` or a merge wrote."""
    from transformers import AutoModelForImageTextToText, AutoTokenizer
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
    from transformers.utils import logging

    logging.disable_progress_bar()  # a bar for 20 ms of work only tears the caller's output apart
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            "There is no model here.", where=folder, expected="config.json and model.safetensors",
            hint="run `optmerge bench train --line easy-vqa` to make the demo's models, or correct the path",
        )  # fmt: skip
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype, local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    settings = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    images = GotOcr2ImageProcessorPil.from_dict(settings)
    return model, Processor(images, tokenizer, model.config.image_seq_length)


def save(model: Any, processor: Processor, folder: Path, *, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write the checkpoint folder; the model itself is left in float32."""
    import copy

    copy.deepcopy(model).to(dtype).save_pretrained(folder)
    processor.save(folder)
