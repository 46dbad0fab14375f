"""The head is tied to the embedding exactly when transformers ties it."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers import AutoConfig, PreTrainedModel

from optmerge.architectures import registered, resolve, untied
from optmerge.architectures._ties import TIED_BY_DEFAULT
from worlds.models import TINY, build
from worlds.saved import Saved

FLAG = "tie_word_embeddings"
TELLING = {(None, None), (True, False), (False, True), (None, True)}
FLAGS = [
    pytest.param(*each, marks=() if each in TELLING else pytest.mark.slow)
    for each in product((True, False, None), repeat=2)
]
"""What a config says at its top and of its language model, or leaves out; all of it in the slow suite."""


def tied_in(model: PreTrainedModel) -> set[tuple[str, str]]:
    by_storage: dict[int, str] = {}
    pairs = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        first = by_storage.setdefault(tensor.data_ptr(), name)
        if first != name:
            pairs.add((name, first))
    return pairs


def read_back(config: dict[str, Any], folder: Path) -> PreTrainedModel:
    """The model transformers makes of this config.json."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    read = AutoConfig.from_pretrained(folder)
    model: PreTrainedModel = getattr(transformers, config["architectures"][0])(read)
    return model


def test_ties_are_those_of_the_model(saved: Saved) -> None:
    assert set(saved.architecture.tied(saved.config)) == tied_in(saved.model)


@pytest.mark.parametrize("flag", [True, False])
@pytest.mark.parametrize("family", sorted(TINY))
def test_the_flag_is_followed(family: str, flag: bool) -> None:
    model = build(family, **{FLAG: flag})
    architecture = resolve(model.config.to_dict(), model.state_dict())
    assert set(architecture.tied(model.config.to_dict())) == tied_in(model)
    assert dict(architecture.tied(model.config.to_dict())) == model.all_tied_weights_keys


@pytest.mark.parametrize(("top", "nested"), FLAGS)
def test_configs_of_either_age_are_read_as_transformers_reads_them(
    saved: Saved, top: bool | None, nested: bool | None, tmp_path: Path
) -> None:
    config = json.loads(json.dumps(saved.config))
    for place, value in ((config, top), (config.get("text_config", {}), nested)):
        place.pop(FLAG, None)
        if value is not None:
            place[FLAG] = value
    assert set(saved.architecture.tied(config)) == tied_in(read_back(config, tmp_path))


@pytest.mark.parametrize("text", ["llama", "gemma", "gemma2", "qwen2", "mistral", "cohere", "smollm3"])
@pytest.mark.parametrize("family", ["llava", "llava_onevision", "llava_next"])
def test_the_default_of_the_language_model_counts_where_its_flag_does(
    family: str, text: str, tmp_path: Path
) -> None:
    config = json.loads(json.dumps(build(family).config.to_dict())) | {"architectures": None}
    sizes = {key: config["text_config"][key] for key in ("vocab_size", "hidden_size", "num_hidden_layers")}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48, "pad_token_id": 0}
    config |= {"text_config": {"model_type": text, **sizes, **heads}}
    config |= {"architectures": [type(build(family)).__name__]}
    config.pop(FLAG)
    assert set(registered()[family].tied(config)) == tied_in(read_back(config, tmp_path))


@pytest.mark.parametrize("text", sorted(TIED_BY_DEFAULT))
def test_the_defaults_are_those_of_the_config_classes(text: str) -> None:
    assert AutoConfig.for_model(text).tie_word_embeddings


def test_a_flat_config_of_transformers_4_counts() -> None:
    flat = {"model_type": "qwen2_vl", "hidden_size": 32, FLAG: True}
    pair = ("lm_head.weight", "model.language_model.embed_tokens.weight")
    assert registered()["qwen2_vl"].tied(flat) == (pair,)


@pytest.mark.parametrize("family", sorted(TINY))
def test_an_untied_config_is_read_as_untied(family: str, tmp_path: Path) -> None:
    model = build(family, **{FLAG: True})
    config = json.loads(json.dumps(model.config.to_dict())) | {"architectures": [type(model).__name__]}
    apart = untied(config)

    assert resolve(apart, model.state_dict()).tied(apart) == ()
    assert not tied_in(read_back(apart, tmp_path))


@pytest.mark.parametrize("flag", [True, False])
def test_internvl_with_its_own_code_follows_its_language_model(flag: bool) -> None:
    config = {"model_type": "internvl_chat", "llm_config": {"model_type": "qwen2", FLAG: flag}}
    pair = ("language_model.lm_head.weight", "language_model.model.embed_tokens.weight")
    assert registered()["internvl_chat"].tied(config) == ((pair,) if flag else ())
