"""Towers and importers of other packages are as good as ours; broken ones are named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig

from optmerge.errors import InputError
from optmerge.omni import OmniForConditionalGeneration, OmniProcessor, TowerConfig
from optmerge.omni.compose import compose
from optmerge.omni.importers import _importer, importers
from optmerge.omni.towers import _registry, tower_kind, tower_kinds
from worlds import omni as tiny
from worlds import omni_zoo as zoo
from worlds.plugins import forget, install

TOWER = """
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    from optmerge.omni.towers import Extracted, TowerKind, hidden_options, hidden_states


    def grid(tower):
        side = tower.encoder.image_size // tower.encoder.patch_size
        return side, side


    def features(tower, encoder, values, mask):
        states = hidden_states(tower, encoder(values, **hidden_options(tower)))
        return states[:, 1:].reshape(len(states), *grid(tower), -1)


    def extractor(tower):
        side = tower.encoder.image_size
        return ViTImageProcessorPil(size={"height": side, "width": side})


    def extract(extractor, items):
        return Extracted(extractor(images=list(items), return_tensors="pt")["pixel_values"])


    KIND = TowerKind(
        name="vit", modality="image", encoders=("vit",), grid=grid, features=features, extractor=extractor,
        extract=extract, pooling=(2, 2),
    )
"""

IMPORTER = """
    from dataclasses import replace

    from optmerge.omni.importers.llava import IMPORTER

    IMPORTER = replace(IMPORTER, model_type="outsider")
"""

GROUPS: dict[str, tuple[Callable[[], Mapping[str, Any]], str]] = {
    "optmerge.towers": (tower_kinds, "from optmerge.omni.towers.clip import KIND"),
    "optmerge.importers": (importers, "from optmerge.omni.importers.llava import IMPORTER"),
}


@pytest.fixture(autouse=True)
def _fresh_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch, _registry, "_KINDS")
    forget(monkeypatch, _importer, "_IMPORTERS")


def test_a_tower_of_another_package_is_configured_saved_composed_and_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tmp_path / "site", "optmerge.towers", TOWER)
    encoder = AutoConfig.for_model(**{**tiny.ENCODERS["clip"], "model_type": "vit"})
    words = tiny.tokenizer()
    tower = TowerConfig(kind="vit", encoder=encoder, token_id=words.convert_tokens_to_ids("<image>"))
    assert (tower.modality, tower.grid, tower.tokens) == ("image", (2, 2), 1)
    llm = zoo.base(tmp_path / "llm")
    zoo.adapted(llm, tmp_path / "seeing", tower, seed=1)
    zoo.adapted(llm, tmp_path / "hearing", "whisper", seed=2)
    experts = [str(tmp_path / "seeing"), str(tmp_path / "hearing")]
    out = compose({"base": str(llm), "experts": experts, "method": "naivemc"}, tmp_path / "out").path
    model, processor = OmniForConditionalGeneration.from_pretrained(out), OmniProcessor.from_pretrained(out)
    assert model.config.towers["image"].kind == "vit"
    own, start = load_file(out / "model.safetensors"), load_file(tmp_path / "seeing-start/model.safetensors")
    encoders = [name for name in start if name.startswith("towers.image.encoder.")]
    assert encoders and all(torch.equal(own[name], start[name]) for name in encoders)
    inputs = processor("a <image> b <audio> what ?", images=tiny.picture(), audio=tiny.sound())
    assert model.generate(**inputs, do_sample=False, max_new_tokens=3, min_new_tokens=3).shape[1] > 3
    other = dict(inputs) | {"pixel_values": inputs["pixel_values"] + 1}
    assert not torch.equal(zoo.logits(model, inputs), zoo.logits(model, other))


def test_an_importer_of_another_package_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path, "optmerge.importers", IMPORTER)
    assert list(importers()) == ["llava", "outsider", "qwen2_audio", "video_llava"]


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("source", [None, "raise ValueError('half installed')", "NOTHING = 'declared'"])
def test_a_broken_plug_in_is_named(
    source: str | None, group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tmp_path, group, source)
    with pytest.raises(InputError, match=r"plug-in 'outsider'[\s\S]*uninstall"):
        GROUPS[group][0]()


@pytest.mark.parametrize("group", GROUPS)
def test_a_plug_in_cannot_replace_one_of_ours(
    group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, source = GROUPS[group]
    install(monkeypatch, tmp_path, group, source)
    with pytest.raises(InputError, match=r"there already is a[\s\S]*outsider_of"):
        found()


def test_an_unknown_kind_of_tower_is_told_its_neighbour() -> None:
    with pytest.raises(InputError, match=r"unknown kind of tower 'whsiper'[\s\S]*did you mean 'whisper'"):
        tower_kind("whsiper")
