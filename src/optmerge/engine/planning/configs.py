"""What configs say that shapes don't show: with the same weights, two of them may compute different things.

Configs are compared by meaning. The spellings of transformers 4 and 5 meet (`rope_theta`, `rope_scaling` and
`rope_parameters`; a text model's settings at the top or in `text_config`), and what a file leaves out is the
default of its class, where transformers is installed and knows the class.
"""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from optmerge.architectures import resolve
from optmerge.checkpoints.checkpoint import Checkpoint
from optmerge.engine.planning.inputs import Base
from optmerge.errors import CheckpointError
from optmerge.recipe import Expert

_HOISTED = ("text_config", "llm_config", "language_config")
_ROPE = ("rope_theta", "rope_scaling", "rope_parameters")
_SPELLINGS = {
    "image_token_index": "image_token_id",
    "video_token_index": "video_token_id",
    "audio_token_index": "audio_token_id",
    "hidden_activation": "hidden_act",
}
_COMPUTES = re.compile(
    r"(num_attention_heads|num_heads|n_heads?|((en|de)coder_)?attention_heads"
    r"|num_key_value_heads|head_dim|rope\..*|partial_rotary_factor|rotary_\w+|mrope_section|alibi"
    r"|position_embedding_type"
    r"|(projector_)?hidden_act|activation_function|query_pre_attn_scalar|\w+_softcapping|\w+_multiplier"
    r"|logits_scaling|logit_scale|num_experts_per_tok(en)?|norm_topk_prob|routed_scaling_factor|scoring_func"
    r"|vision_feature_(layer|select_strategy)|(temporal_)?patch_size|spatial_merge_size|scale_factor"
    r"|downsample_ratio|fullatt_block_indexes|deepstack_visual_indexes|window_size)"
)
"""Settings with another value of which the merged weights compute something they weren't trained for."""

_NAMED = re.compile(
    r"((\w+_)?(eps|epsilon)|(use_)?sliding_window|max_window_layers|layer_types|max_position_embeddings"
    r"|(?!bos|pad)\w+_token_id|image_size|image_grid_pinpoints|mm_tokens_per_image|image_seq_length"
    r"|tie_word_embeddings)"
)
"""Settings worth a warning. Everything else says nothing of the result, or shows in the shapes."""

_ROPE_SPELLINGS = {"rope_type": "type", "rope_theta": "theta"}
_SHOWN = 4
_DEEPEST = 6
"""Levels of a config that are looked into."""


@dataclass(frozen=True)
class ConfigDifference:
    """A setting that an expert's config and the base's give different values.

    Args:
        key: its name, with the part of the model before it.
        base: the base's value; None where the base has none.
        expert: the expert's value; None where the expert has none.
    """

    key: str
    base: Any
    expert: Any

    @property
    def matters(self) -> bool:
        """Whether the model computes otherwise."""
        return _COMPUTES.fullmatch(_setting(self.key)) is not None


def differences(base: Mapping[str, Any] | None, expert: Mapping[str, Any] | None) -> list[ConfigDifference]:
    """Settings that differ and matter, or are worth a warning; none where a model has no config."""
    if base is None or expert is None or base == expert:
        return []
    found = _compared(_normal(base), _normal(expert))
    if not found:
        return []
    ours, theirs = _filled(base), _filled(expert)
    if ours is None or theirs is None:
        return [each for each in found if each.base is not None and each.expert is not None]
    return _compared(_normal(ours), _normal(theirs))


def check_config(checkpoint: Checkpoint, spec: Expert, name: str, base: Base) -> None:
    """Refuses a full expert that computes otherwise with the same weights, unless the recipe allows for it.

    Raises:
        CheckpointError: with the settings, and the way out.
    """
    found = [each for each in differences(base.checkpoint.config, checkpoint.config) if each.matters]
    if spec.any_base or not found:
        return
    raise CheckpointError(
        f"expert {name!r} computes otherwise than the base, whose weights it shares",
        where=checkpoint.path / "config.json",
        got=_listed((each.key, each.expert) for each in found[:_SHOWN]),
        expected=_listed((each.key, each.base) for each in found[:_SHOWN]),
        hint=f"leave {name!r} out; or, to merge its weights for a model that computes as the base does, "
        f"write {{model: {spec.model}, any_base: true}}",
    )


def config_warnings(checkpoint: Checkpoint, name: str, base: Base) -> list[str]:
    """What differs and was let pass; the output has the base's config."""
    found = differences(base.checkpoint.config, checkpoint.config)
    words = [f"{each.key} {_short(each.expert)}, here {_short(each.base)}" for each in found]
    ours = base.checkpoint.config or {}
    theirs = checkpoint.config or {}
    if ours and theirs:
        tied = bool(base.architecture.tied(ours))
        if bool(resolve(theirs, checkpoint.tensors).tied(theirs)) != tied:
            words.append(f"tie_word_embeddings {not tied}, here {tied}")
    if not words:
        return []
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return [f"the config of {name} says {'; '.join(words[:_SHOWN])}{more}: the output has the base's config"]


def _compared(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[ConfigDifference]:
    keys = sorted({*ours, *theirs})
    found = [
        ConfigDifference(key, ours.get(key), theirs.get(key))
        for key in keys
        if ours.get(key) != theirs.get(key)
    ]
    return [each for each in found if each.matters or _NAMED.fullmatch(_setting(each.key))]


def _setting(key: str) -> str:
    """Last part of a key; of rotary embeddings everything from `rope` on."""
    match = re.search(r"(^|\.)(rope\..*)", key)
    return match[2] if match else key.rpartition(".")[2]


def _normal(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by name, in one spelling: `vision_config.num_heads`, `rope.theta`; without those of None."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if key in _ROPE or key in _HOISTED or key == "tie_word_embeddings" or value is None:
            continue
        if isinstance(value, Mapping) and prefix.count(".") < _DEEPEST:
            found |= _normal(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{_SPELLINGS.get(key, key)}"] = list(value) if isinstance(value, tuple) else value
    found |= {f"{prefix}rope.{key}": value for key, value in _rope(config).items()}
    for key in _HOISTED:
        if isinstance(config.get(key), Mapping):
            found |= _normal(config[key], prefix) if prefix.count(".") < _DEEPEST else {}
    if found.get(f"{prefix}use_sliding_window") is False:
        found.pop(f"{prefix}sliding_window", None)
        found.pop(f"{prefix}max_window_layers", None)
    return found


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of rotary embeddings, however they are spelt."""
    found: dict[str, Any] = {} if config.get("rope_theta") is None else {"theta": config["rope_theta"]}
    for key in ("rope_scaling", "rope_parameters"):
        own = config.get(key)
        for name, value in own.items() if isinstance(own, Mapping) else ():
            if isinstance(value, Mapping):  # one set for each type of layer
                found |= {f"{name}.{inner}": each for inner, each in value.items() if each is not None}
            elif value is not None:
                found[_ROPE_SPELLINGS.get(str(name), str(name))] = value
    kind = str(found.pop("type", "default"))
    kind = {"mrope": "default", "su": "longrope"}.get(kind, kind)
    return found if kind == "default" else {**found, "type": kind}


def _filled(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The config with its class's defaults, by transformers; None where transformers can't say."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        known: Any = CONFIG_MAPPING[str(config.get("model_type"))]
        filled: dict[str, Any] = known.from_dict(copy.deepcopy(dict(config))).to_dict()
    except Exception:  # a config may hold anything, and each class has errors of its own
        return None
    finally:
        logger.setLevel(level)
    return filled


def _listed(pairs: Iterator[tuple[str, Any]]) -> str:
    return ", ".join(f"{key} {_short(value)}" for key, value in pairs)


def _short(value: Any) -> str:
    return "unset" if value is None else str(value)[:60]
