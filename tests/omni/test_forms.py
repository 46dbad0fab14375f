"""Composed models written as classes of transformers: the same answers, or a refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoProcessor

from optmerge.engine.verify.checks import verify
from optmerge.errors import InputError
from optmerge.omni import OmniForConditionalGeneration, OmniProcessor, TowerConfig
from optmerge.omni.compose import compose
from optmerge.omni.forms import forms
from worlds import omni as tiny
from worlds import omni_zoo as zoo

ROOMY = {"vocab_size": 40}
"""A vocabulary that holds the placeholders."""
FITTING: dict[str, TowerConfig] = {
    "llava": tiny.tower("clip"),
    "qwen2_audio": tiny.tower("qwen2_audio", projector_depth=1),
}
CLASS = {name: form.model_class for name, form in forms().items()}


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zoo.base(tmp_path_factory.mktemp("forms") / "llm", **ROOMY)


def compose_both(llm: Path, tower: TowerConfig, form: str, folder: Path, **more: Any) -> tuple[Path, Path]:
    """The same composition as an omni model and in the form."""
    zoo.adapted(llm, folder / "expert", tower, rank=2)
    asked = {"base": str(llm), "experts": [str(folder / "expert")], "method": "task_arithmetic", **more}
    return compose(asked, folder / "omni").path, compose(asked, folder / form, form=form).path


def asked_of(form: str, processor: Any) -> Any:
    """Two prompts of other lengths, each with an item."""
    if form == "llava":
        items, token = {"images": [tiny.picture(1), tiny.picture(2)]}, "<image>"
    else:
        items, token = {"audio": [tiny.sound(1), tiny.sound(2, 0.7)]}, "<audio>"
    texts = [f"a {token} what ?", f"b c d {token} e what is this ?"]
    return processor(text=texts, **items, padding=True, return_tensors="pt")


def same_answers(omni: Path, written: Path, form: str) -> None:
    one = OmniForConditionalGeneration.from_pretrained(omni)
    other, info = getattr(transformers, CLASS[form]).from_pretrained(written, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    processor = AutoProcessor.from_pretrained(written)
    assert type(processor) is not OmniProcessor
    ours = asked_of(form, OmniProcessor.from_pretrained(omni))
    theirs = asked_of(form, processor)
    assert torch.equal(ours["input_ids"], theirs["input_ids"])
    told, expected = zoo.logits(other, theirs), zoo.logits(one, ours)
    seen = ours["attention_mask"].bool()
    assert torch.allclose(told[seen], expected[seen], atol=1e-5)
    options = {"do_sample": False, "max_new_tokens": 6, "min_new_tokens": 6, "pad_token_id": 0}
    assert torch.equal(other.generate(**theirs, **options), one.generate(**ours, **options))


@pytest.mark.parametrize("form", FITTING)
def test_a_form_answers_as_the_omni_model_and_needs_no_remote_code(
    form: str, llm: Path, tmp_path: Path
) -> None:
    omni, written = compose_both(llm, FITTING[form], form, tmp_path)
    same_answers(omni, written, form)
    assert not list(written.glob("*.py")) and "auto_map" not in (written / "config.json").read_text()
    found = verify(written)
    assert found.ok, found
    assert {"load": True, "generate": True}.items() <= {c.name: c.ok for c in found.checks}.items()


@pytest.mark.slow
@pytest.mark.parametrize(
    "tower",
    [
        tiny.tower("clip", special=True, layer=-1),
        tiny.tower("clip", layer=None, projector_act="relu", projector_bias=False),
        tiny.tower("siglip", layer=-2),
        tiny.tower("siglip", layer=-1),
    ],
    ids=["class token", "encoder's output", "siglip", "siglip's last layer"],
)
def test_every_tower_that_llava_can_express_answers_the_same(
    tower: TowerConfig, llm: Path, tmp_path: Path
) -> None:
    same_answers(*compose_both(llm, tower, "llava", tmp_path), "llava")


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", [{"model_type": "llama"}, {"tie_word_embeddings": True}, {"model_type": "qwen3"}]
)
def test_llava_takes_language_models_like_llama_tied_or_not(text: dict[str, Any], tmp_path: Path) -> None:
    llm = zoo.base(tmp_path / "llm", **ROOMY, **text)
    same_answers(*compose_both(llm, FITTING["llava"], "llava", tmp_path), "llava")


@pytest.mark.slow
def test_full_experts_and_a_merged_adapter_take_a_form_too(llm: Path, tmp_path: Path) -> None:
    experts = [str(zoo.full(llm, tmp_path / str(seed), FITTING["llava"], seed=seed)) for seed in (1, 2)]
    asked: dict[str, Any] = {"base": str(llm), "experts": experts, "method": "average"}
    towers = {"image": "1"}
    omni = compose(asked, tmp_path / "omni", towers=towers).path
    same_answers(omni, compose(asked, tmp_path / "dense", towers=towers, form="llava").path, "llava")
    zoo.adapted(llm, tmp_path / "lora", FITTING["llava"])
    asked = {"base": str(llm), "experts": [str(tmp_path / "lora")], "method": "task_arithmetic"}
    split = compose({**asked, "output": "adapter"}, tmp_path / "split", form="llava")
    assert split.adapter is not None and verify(split.adapter).ok and verify(split.path).ok


REFUSED = {
    "two towers": ("llava", ["clip", "whisper"], "other towers"),
    "another modality": ("llava", ["whisper"], "other towers"),
    "another kind": ("llava", ["dinov2"], "another kind"),
    "a deeper projector": ("llava", [tiny.tower("clip", projector_depth=3)], "projector is another"),
    "pooling": ("llava", [tiny.tower("clip", pooling=[2, 2])], "averages neighbours"),
    "siglip after its norm": ("llava", ["siglip"], "after the last norm"),
    "a deeper projector of sound": ("qwen2_audio", ["qwen2_audio"], "projector is another"),
    "whisper": ("qwen2_audio", [tiny.tower("whisper", pooling=[1], projector_depth=1)], "another kind"),
    "another layer": (
        "qwen2_audio",
        [tiny.tower("qwen2_audio", projector_depth=1, layer=-2)],
        "another layer",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_parts_that_do_not_fit_are_refused_before_any_work(case: str, llm: Path, tmp_path: Path) -> None:
    form, towers, words = REFUSED[case]
    expert = zoo.full(llm, tmp_path / "expert", *towers)
    with pytest.raises(InputError, match=f"{words}[\\s\\S]*leave --as out"):
        compose(
            {"base": str(llm), "experts": [str(expert)], "method": "average"}, tmp_path / "out", form=form
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("form", "text", "words"),
    [
        ("llava", {"vocab_size": 26}, "has no embedding"),
        ("llava", {**ROOMY, "model_type": "gemma2"}, "of another kind"),
        ("qwen2_audio", {**ROOMY, "tie_word_embeddings": True}, "head is its embedding"),
    ],
)
def test_language_models_that_do_not_fit_are_refused(
    form: str, text: dict[str, Any], words: str, tmp_path: Path
) -> None:
    llm = zoo.base(tmp_path / "llm", **text)
    expert = zoo.full(llm, tmp_path / "expert", FITTING[form])
    with pytest.raises(InputError, match=words):
        compose(
            {"base": str(llm), "experts": [str(expert)], "method": "average"}, tmp_path / "out", form=form
        )
    assert not (tmp_path / "out").exists()


def test_damc_and_unknown_forms_are_refused(llm: Path, tmp_path: Path) -> None:
    zoo.adapted(llm, tmp_path / "expert", FITTING["llava"])
    asked = {"base": str(llm), "experts": [str(tmp_path / "expert")], "method": "damc"}
    with pytest.raises(InputError, match="adapter of its own"):
        compose(asked, tmp_path / "out", form="llava")
    with pytest.raises(InputError, match=r"unknown form 'lava'[\s\S]*did you mean 'llava'"):
        compose(asked, tmp_path / "out", form="lava")
    assert not (tmp_path / "out").exists()
