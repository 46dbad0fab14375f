"""The omni model: where embeddings land, what survives a round trip, and what generation does with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor

from optmerge.errors import InputError
from optmerge.omni import OmniConfig, OmniForConditionalGeneration, OmniProcessor, TowerConfig
from optmerge.omni.tower import Tower, _pool
from optmerge.omni.towers import tower_kinds
from worlds import omni as tiny

ALL = ("clip", "whisper", "frames")
IMAGE, AUDIO, VIDEO = "<image>", "<audio>", "<video>"


@pytest.fixture(scope="module")
def omni() -> OmniForConditionalGeneration:
    return tiny.model(*ALL)


@pytest.fixture(scope="module")
def processor(omni: OmniForConditionalGeneration) -> OmniProcessor:
    return tiny.processor(omni)


def ask(kind: str, processor: OmniProcessor) -> Any:
    """Inputs of a prompt with one item of a kind of tower."""
    tower = next(each for each in processor.towers.values() if each.kind == kind)
    item = [tiny.ITEMS[tower.modality]()]
    return processor(f"what is {tower.token} ?", **{tiny.ARGUMENT[tower.modality]: item})


def logits(model: Any, inputs: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(**inputs).logits
    return found


@pytest.mark.parametrize("kind", sorted(tower_kinds()))
def test_every_kind_of_tower_survives_a_round_trip_bit_for_bit(kind: str, tmp_path: Path) -> None:
    model = tiny.model(kind)
    processor = tiny.processor(model)
    inputs = ask(kind, processor)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)

    back, back_processor = AutoModel.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    state = back.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    again = ask(kind, back_processor)
    assert inputs.keys() == again.keys() and all(torch.equal(inputs[name], again[name]) for name in inputs)
    assert torch.equal(logits(model, inputs), logits(back, again))


@pytest.mark.parametrize("kind", sorted(tower_kinds()))
def test_every_item_reaches_the_answer(kind: str) -> None:
    model = tiny.model(kind)
    processor = tiny.processor(model)
    (tower,) = processor.towers.values()
    told = []
    for seed in (1, 2):
        item = {tiny.ARGUMENT[tower.modality]: [tiny.ITEMS[tower.modality](seed)]}
        told.append(logits(model, processor(f"{tower.token} what", **item))[0, -1])
    assert (told[0] - told[1]).abs().max() > 1e-4


def test_importing_the_package_costs_no_heavy_import() -> None:
    code = (
        "import sys, optmerge.omni, optmerge.omni.media; "
        "sys.exit(bool({'torch', 'transformers', 'PIL', 'av'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_the_processor_alone_makes_the_auto_classes_know_the_model(
    omni: OmniForConditionalGeneration, processor: OmniProcessor, tmp_path: Path
) -> None:
    omni.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    code = """
import sys
from optmerge.omni import OmniProcessor
from transformers import AutoModel, AutoProcessor
assert type(AutoProcessor.from_pretrained(sys.argv[1])) is OmniProcessor
print(type(AutoModel.from_pretrained(sys.argv[1])).__name__)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.stdout.split()[-1:] == ["OmniForConditionalGeneration"], done.stderr


def test_the_auto_classes_know_the_model_once_its_classes_are_imported(
    omni: OmniForConditionalGeneration, tmp_path: Path
) -> None:
    omni.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert type(config) is OmniConfig and list(config.towers) == ["image", "audio", "video"]
    assert config.towers["audio"].to_dict() == omni.config.towers["audio"].to_dict()
    model = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype="bfloat16")
    assert {value.dtype for value in model.parameters()} == {torch.bfloat16}


def test_a_tied_language_model_stays_tied(tmp_path: Path) -> None:
    model = tiny.model("clip", tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    back = AutoModel.from_pretrained(tmp_path)
    assert back.get_output_embeddings().weight is back.get_input_embeddings().weight
    inputs = ask("clip", tiny.processor(model))
    assert torch.equal(logits(model, inputs), logits(back, inputs))


def test_a_smaller_vocabulary_may_leave_the_placeholders_out() -> None:
    model = tiny.model("clip")
    inputs = ask("clip", tiny.processor(model))
    before = logits(model, inputs)
    model.resize_token_embeddings(25)
    assert int(inputs["input_ids"].max()) >= 25
    assert torch.equal(logits(model, inputs), before[..., :25])
    assert model.generate(**inputs, do_sample=False, max_new_tokens=2).shape == (1, 9)


def test_embeddings_stand_where_their_placeholders_are(
    omni: OmniForConditionalGeneration, processor: OmniProcessor
) -> None:
    inputs = processor(
        f"a {AUDIO} b {IMAGE} c {IMAGE} d", images=[tiny.picture(1), tiny.picture(2)], audio=tiny.sound()
    )
    with torch.no_grad():
        pictures = omni.towers["image"](inputs["pixel_values"]).unflatten(0, (2, -1))
        sound = omni.towers["audio"](inputs["input_features"])
        word = {w: omni.get_input_embeddings()(torch.tensor([tiny.WORDS.index(w)])) for w in "abcd"}
        parts = [word["a"], sound, word["b"], pictures[0], word["c"], pictures[1], word["d"]]
        expected = omni(inputs_embeds=torch.cat(parts)[None]).logits
    assert torch.equal(logits(omni, inputs), expected)


def test_rows_of_a_batch_have_modalities_of_their_own(
    omni: OmniForConditionalGeneration, processor: OmniProcessor
) -> None:
    prompts = [f"{VIDEO} a {IMAGE} what ?", "what ?", f"b {AUDIO} what ?", f"{IMAGE} {AUDIO} {IMAGE} what ?"]
    pictures, sounds = [tiny.picture(n) for n in range(3)], [tiny.sound(n) for n in range(2)]
    batch = processor(prompts, images=pictures, audio=sounds, videos=[tiny.clip()])
    alone = [
        processor(prompts[0], images=pictures[:1], videos=[tiny.clip()]),
        processor(prompts[1]),
        processor(prompts[2], audio=sounds[:1]),
        processor(prompts[3], images=pictures[1:], audio=sounds[1:]),
    ]
    together = omni.generate(**batch, do_sample=False, max_new_tokens=6, eos_token_id=[])
    for row, inputs in enumerate(alone):
        last = logits(omni, inputs)[0, -1]
        assert torch.allclose(logits(omni, batch)[row, -1], last, atol=1e-4)
        own = omni.generate(**inputs, do_sample=False, max_new_tokens=6, eos_token_id=[])
        assert torch.equal(together[row, -6:], own[0, -6:])


def test_the_cache_changes_no_answer(omni: OmniForConditionalGeneration, processor: OmniProcessor) -> None:
    inputs = processor(f"{IMAGE} {AUDIO} what ?", images=tiny.picture(), audio=tiny.sound())
    options: dict[str, Any] = {"do_sample": False, "max_new_tokens": 8, "eos_token_id": []}
    with_cache = omni.generate(**inputs, **options)
    assert torch.equal(with_cache, omni.generate(**inputs, **options, use_cache=False))
    told, placeholders = inputs["input_ids"], [tower.token_id for tower in processor.towers.values()]
    for _ in range(8):
        mask = torch.ones_like(told)
        scores = logits(omni, {**inputs, "input_ids": told, "attention_mask": mask})[:, -1]
        scores[:, placeholders] = -torch.inf
        step = scores.argmax(-1)
        told = torch.cat([told, step[:, None]], dim=1)
    assert torch.equal(with_cache, told)


def test_no_placeholder_is_ever_said(omni: OmniForConditionalGeneration, processor: OmniProcessor) -> None:
    ids = [tower.token_id for tower in processor.towers.values()]
    head: Any = omni.get_output_embeddings()
    kept = head.weight.detach().clone()
    try:
        with torch.no_grad():
            head.weight[ids] *= 100  # either much wanted or much unwanted
        options: dict[str, Any] = {"do_sample": True, "max_new_tokens": 20, "suppress_tokens": [2]}
        told = omni.generate(**processor("what is this ?"), **options)[0, 4:]
    finally:
        with torch.no_grad():
            head.weight.copy_(kept)
    assert not set(told.tolist()) & {*ids, 2}


def test_beams_keep_the_items_of_their_rows() -> None:
    model = tiny.model("clip", "qwen2_audio", seed=3)
    processor = tiny.processor(model)
    prompts = [f"{IMAGE} a {IMAGE} {AUDIO} what ?", f"{AUDIO} {IMAGE} {AUDIO} what ?"]
    pictures = [tiny.picture(n) for n in range(3)]
    sounds = [tiny.sound(n, seconds) for n, seconds in enumerate((0.3, 0.5, 0.2))]
    options: dict[str, Any] = {"num_beams": 3, "do_sample": False, "max_new_tokens": 5, "min_new_tokens": 5}
    both = model.generate(**processor(prompts, images=pictures, audio=sounds), **options)
    first = model.generate(**processor(prompts[0], images=pictures[:2], audio=sounds[:1]), **options)
    second = model.generate(**processor(prompts[1], images=pictures[2:], audio=sounds[1:]), **options)
    assert torch.equal(both[0, -5:], first[0, -5:]) and torch.equal(both[1, -5:], second[0, -5:])


def test_the_loss_is_of_words_alone(omni: OmniForConditionalGeneration, processor: OmniProcessor) -> None:
    inputs = processor(f"{IMAGE} what is this ?", images=tiny.picture())
    with torch.no_grad():
        out = omni(**inputs, labels=inputs["input_ids"])
    words = inputs["input_ids"][0, -4:]
    expected = functional.cross_entropy(out.logits[0, -5:-1], words)
    assert torch.allclose(out.loss, expected)


def test_training_reaches_tower_and_language_model(
    omni: OmniForConditionalGeneration, processor: OmniProcessor
) -> None:
    inputs = processor(f"{IMAGE} {AUDIO} what ?", images=tiny.picture(), audio=tiny.sound())
    omni(**inputs, labels=inputs["input_ids"]).loss.backward()
    reached = {
        name.split(".encoder.")[0].split(".projector.")[0]
        for name, p in omni.named_parameters()
        if p.grad is not None
    }
    omni.zero_grad()
    assert {"towers.image", "towers.audio"} <= reached and "towers.video" not in reached


def test_pooling_averages_neighbours_and_loses_none() -> None:
    config = tiny.tower("whisper", pooling=[8])
    assert config.tokens == 7
    torch.manual_seed(0)
    pooled, whole = Tower(config, 32), Tower(tiny.tower("whisper", pooling=[1]), 32)
    whole.load_state_dict(pooled.state_dict())
    identity = torch.nn.Identity()
    pooled.projector = whole.projector = identity
    values = torch.randn(1, 16, 100)
    with torch.no_grad():
        every, few = whole.eval()(values), pooled.eval()(values)
    assert torch.allclose(few[0], every[:8].mean(0), atol=1e-6)
    assert torch.allclose(few[-1], every[48:].mean(0), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pooling", [[5], [2, 3], [2, 1, 3]])
def test_pooling_takes_any_precision(pooling: list[int], dtype: torch.dtype) -> None:
    states = torch.randn(2, *([6] * len(pooling)), 4).to(dtype)
    pooled = _pool(states, pooling)
    assert pooled.dtype == dtype
    assert torch.equal(pooled, _pool(states.float(), pooling).to(dtype))


def test_frames_are_averaged_over_time_and_place() -> None:
    assert tiny.tower("frames", frames=6, pooling=[3, 1, 2]).pooled == (2, 2, 1)
    assert tiny.tower("frames", frames=2, special=True).grid == (2, 5)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"kind": "clop"}, "did you mean 'clip'"),
        ({"kind": "siglip"}, "siglip_vision_model"),
        ({"kind": "clip", "pooling": [2]}, "for each axis"),
        ({"kind": "clip", "pooling": [2, 0]}, "≥ 1"),
        ({"kind": "clip", "frames": 3}, "only videos have frames"),
        ({"kind": "frames", "frames": 0}, "≥ 1"),
    ],
)
def test_a_tower_that_cannot_be_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        TowerConfig(encoder=AutoConfig.for_model(**tiny.ENCODERS["clip"]), **options)


def test_towers_in_the_wrong_place_or_with_one_placeholder_are_refused() -> None:
    text = AutoConfig.for_model(**tiny.TEXT)
    with pytest.raises(InputError, match="give it as audio_tower"):
        OmniConfig(text_config=text, image_tower=tiny.tower("whisper"))
    with pytest.raises(InputError, match="unknown modality"):
        OmniConfig(text_config=text, towers={"smell": tiny.tower("clip")})
    towers = {"image": tiny.tower("clip", token_id=41), "audio": tiny.tower("whisper", token_id=41)}
    with pytest.raises(InputError, match="image and audio"):
        OmniConfig(text_config=text, towers=towers)


def test_inputs_that_were_tampered_with_are_refused(
    omni: OmniForConditionalGeneration, processor: OmniProcessor
) -> None:
    inputs = processor(f"what {IMAGE} ?", images=tiny.picture())
    cut = {
        **inputs,
        "input_ids": inputs["input_ids"][:, 2:],
        "attention_mask": inputs["attention_mask"][:, 2:],
    }
    with pytest.raises(InputError, match="3 placeholders, 4 embeddings"):
        omni(**cut)
    with pytest.raises(InputError, match="4 placeholders, 0 embeddings"):
        omni(input_ids=inputs["input_ids"])
    with pytest.raises(InputError, match="takes no image"):
        tiny.model("whisper")(**{**inputs, "input_ids": torch.ones(1, 3, dtype=torch.long)})
    with pytest.raises(InputError, match="items need places"):
        omni(inputs_embeds=torch.zeros(1, 2, 32), pixel_values=inputs["pixel_values"])
