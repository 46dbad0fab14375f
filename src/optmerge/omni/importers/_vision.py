"""Parts shared by LLaVA and Video-LLaVA: a tower for pictures, a projector of two layers, preprocessing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optmerge.checkpoints.json_files import read_object
from optmerge.errors import InputError
from optmerge.omni.config import TowerConfig

PROJECTOR = ("model.multi_modal_projector.linear_1", "model.multi_modal_projector.linear_2")

_KINDS = {"clip_vision_model": "clip", "siglip_vision_model": "siglip"}
_SETTINGS = (
    *("do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor"),
    *("do_normalize", "image_mean", "image_std", "do_convert_rgb"),
)


def picture_tower(config: Any) -> dict[str, Any]:
    """Arguments of `TowerConfig` for the tower for pictures, the placeholder left out.

    Raises:
        InputError: no kind of tower has such an encoder, or can choose such features.
    """
    encoder = config.vision_config
    if encoder.model_type not in _KINDS:
        raise InputError(
            "no kind of tower takes this encoder", got=encoder.model_type, expected=", ".join(_KINDS)
        )
    first_goes = config.vision_feature_select_strategy == "default"
    if first_goes and encoder.model_type == "siglip_vision_model":
        raise InputError(
            "the model drops SigLIP's first patch",
            got="vision_feature_select_strategy: default",
            expected="full",
            hint="no omni tower does that",
        )
    return {
        "kind": _KINDS[encoder.model_type],
        "encoder": encoder,
        "layer": _layer(config.vision_feature_layer),
        "special": not first_goes and encoder.model_type == "clip_vision_model",
        "projector_act": config.projector_hidden_act,
        "projector_bias": config.multimodal_projector_bias,
    }


def _layer(layer: int | list[int]) -> int:
    layers = [layer] if isinstance(layer, int) else list(layer)
    if len(layers) != 1:
        raise InputError(
            "the model joins several layers of its encoder",
            got=f"vision_feature_layer: {layers}",
            expected="one layer",
            hint="no omni tower does that",
        )
    return layers[0]


def picture_extractor(folder: Path, tower: TowerConfig) -> Any:
    """The image processor that `preprocessor_config.json` describes, without torchvision."""
    from transformers import AutoImageProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    found = read_object(folder / "preprocessor_config.json", "image processor's settings")
    if found.get("image_processor_type", "").startswith(("CLIP", "VideoLlava")):
        return CLIPImageProcessorPil(**{key: found[key] for key in _SETTINGS if key in found})
    return AutoImageProcessor.from_pretrained(folder, local_files_only=True)
