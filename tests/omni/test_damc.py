"""DAMC: embeddings of a modality go through its own adapter, everything else through the average of all."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from optmerge.engine.merge import Options
from optmerge.errors import InputError
from optmerge.omni import OmniForConditionalGeneration, OmniProcessor
from optmerge.omni.compose import compose
from optmerge.omni.routing import RoutedLinear
from worlds import omni as tiny
from worlds import omni_zoo as zoo

IMAGE, AUDIO = "<image>", "<audio>"
RANKS = {"image": 2, "audio": 3}
SCALES = {"image": 5 / 2, "audio": 5 / 3}  # lora_alpha / rank


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    llm = zoo.base(folder / "llm")
    zoo.adapted(llm, folder / "image", "clip", seed=1, rank=2)
    zoo.adapted(
        llm, folder / "audio", "qwen2_audio", seed=2, rank=3, target=r"language_model.*\.(q_proj|up_proj)"
    )
    return folder


@pytest.fixture(scope="module")
def composed(home: Path) -> Path:
    return compose(recipe(home, "image", "audio"), home / "damc").path


def recipe(home: Path, *names: str, method: Any = "damc", **more: Any) -> dict[str, Any]:
    return {
        "base": str(home / "llm"),
        "experts": [str(home / name) for name in names],
        "method": method,
        **more,
    }


def changes(home: Path, name: str) -> dict[str, torch.Tensor]:
    """What an adapter adds to each linear layer, read from its file."""
    values = load_file(home / name / "adapter_model.safetensors")
    found = {}
    for key, down in values.items():
        if key.endswith(".lora_A.weight"):
            module = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            found[module] = SCALES[name] * values[key.replace("lora_A", "lora_B")] @ down
    return found


class ByToken(nn.Module):
    """A linear layer with a whole weight for each kind of token."""

    def __init__(self, weights: dict[str, torch.Tensor], bias: torch.Tensor | None, kinds: list[str]) -> None:
        super().__init__()
        self.weights, self.bias, self.kinds = weights, bias, kinds

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        rows = [
            nn.functional.linear(states[:, n], self.weights[kind], self.bias)
            for n, kind in enumerate(self.kinds)
        ]
        return torch.stack(rows, 1)


def by_token(home: Path, composed: Path, inputs: Any) -> torch.Tensor:
    """Logits of the composed model with every layer's weights written out for each kind of token."""
    model = OmniForConditionalGeneration.from_pretrained(composed)
    ids = {tower.token_id: modality for modality, tower in model.config.towers.items()}
    kinds = [ids.get(token, "text") for token in inputs["input_ids"][0].tolist()]
    own = {name: changes(home, name) for name in ("image", "audio")}
    base = load_file(home / "llm/model.safetensors")
    for module in {*own["image"], *own["audio"]}:
        start = base[module.removeprefix("language_model.") + ".weight"]
        delta = {name: own[name].get(module, torch.zeros_like(start)) for name in own}
        weights = {name: start + each for name, each in delta.items()}
        weights["text"] = start + (delta["image"] + delta["audio"]) / 2
        parent, _, last = module.rpartition(".")
        old = model.get_submodule(module)
        setattr(model.get_submodule(parent), last, ByToken(weights, old.bias, kinds))
    return zoo.logits(model, inputs)


def test_each_token_goes_through_the_adapter_of_its_kind(home: Path, composed: Path) -> None:
    processor = OmniProcessor.from_pretrained(composed)
    inputs = processor(f"a {IMAGE} b {AUDIO} what ?", images=tiny.picture(), audio=tiny.sound(0, 0.2))
    told = zoo.logits(OmniForConditionalGeneration.from_pretrained(composed), inputs)
    assert torch.allclose(told, by_token(home, composed, inputs), atol=1e-4)


def test_text_alone_is_answered_as_by_the_average(home: Path, composed: Path) -> None:
    inputs = OmniProcessor.from_pretrained(composed)(["what is this ?", "a b"])
    average = compose(recipe(home, "image", "audio", method="naivemc"), home / "average").path
    told = [
        zoo.logits(OmniForConditionalGeneration.from_pretrained(path), inputs) for path in (composed, average)
    ]
    assert torch.allclose(told[0], told[1], atol=1e-4)


def test_an_expert_alone_answers_as_before(home: Path, tmp_path: Path) -> None:
    path = compose(recipe(home, "audio"), tmp_path / "out").path
    inputs = OmniProcessor.from_pretrained(path)(f"a {AUDIO} what ?", audio=tiny.sound())
    told = zoo.logits(OmniForConditionalGeneration.from_pretrained(path), inputs)
    assert torch.allclose(told, zoo.logits(zoo.load_adapted(home / "audio"), inputs), atol=1e-4)


def test_rows_of_a_batch_do_not_disturb_each_other_while_they_generate(composed: Path) -> None:
    processor = OmniProcessor.from_pretrained(composed)
    model = OmniForConditionalGeneration.from_pretrained(composed)
    prompts = [f"{IMAGE} a {AUDIO} what ?", "what ?", f"b {IMAGE} ?"]
    pictures, sound = [tiny.picture(1), tiny.picture(2)], tiny.sound(0, 0.3)
    options: dict[str, Any] = {"do_sample": False, "max_new_tokens": 5, "min_new_tokens": 5}
    together = model.generate(**processor(prompts, images=pictures, audio=sound), **options)
    assert torch.equal(
        together,
        model.generate(**processor(prompts, images=pictures, audio=sound), **options, use_cache=False),
    )
    alone = [
        processor(prompts[0], images=pictures[:1], audio=sound),
        processor(prompts[1]),
        processor(prompts[2], images=pictures[1:]),
    ]
    for row, inputs in enumerate(alone):
        assert torch.equal(together[row, -5:], model.generate(**inputs, **options)[0, -5:])


def test_routes_survive_a_round_trip_bit_for_bit(composed: Path, tmp_path: Path) -> None:
    model, info = OmniForConditionalGeneration.from_pretrained(composed, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    layers = {name: each for name, each in model.named_modules() if isinstance(each, RoutedLinear)}
    assert len(layers) == 8  # q, v, down of the one, q, up of the other, in two layers
    q = layers["language_model.model.layers.0.self_attn.q_proj"]
    assert {route: len(down) for route, down in q.down.items()} == {"text": 5, "image": 2, "audio": 3}
    up = layers["language_model.model.layers.0.mlp.up_proj"]
    assert set(up.down) == {"text", "audio"}
    model.save_pretrained(tmp_path)
    again = OmniForConditionalGeneration.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def test_base_and_towers_are_carried_over_bit_for_bit(home: Path, composed: Path) -> None:
    own = load_file(composed / "model.safetensors")
    base = load_file(home / "llm/model.safetensors")
    assert all(torch.equal(own[f"language_model.{name}"], value) for name, value in base.items())
    for name in ("image", "audio"):
        tuned = zoo.load_adapted(home / name).state_dict()
        start = load_file(home / f"{name}-start/model.safetensors")
        for key, value in start.items():
            if key.startswith("towers.") and ".projector." not in key:
                assert torch.equal(own[key], value)
        projector = f"towers.{name}.projector."
        layers = [key for key in own if key.startswith(projector)]
        assert layers
        for key in layers:
            within = key.removeprefix(projector)
            trained = tuned[f"base_model.model.{projector}modules_to_save.default.{within}"]
            assert torch.equal(own[key], trained)


def full(home: Path, out: Path) -> tuple[Path, dict[str, Any]]:
    return zoo.full(home / "llm", out / "full", "clip"), {}


def embedding(home: Path, out: Path) -> tuple[Path, dict[str, Any]]:
    return zoo.adapted(home / "llm", out / "e", "clip", target=r"language_model.*(embed_tokens|q_proj)"), {}


def dora(home: Path, out: Path) -> tuple[Path, dict[str, Any]]:
    return zoo.adapted(home / "llm", out / "d", "clip", use_dora=True), {}


def broken(home: Path, out: Path) -> tuple[Path, dict[str, Any]]:
    folder = zoo.adapted(home / "llm", out / "b", "clip")
    values = load_file(folder / "adapter_model.safetensors")
    next(value for name, value in values.items() if "lora_B" in name).fill_(torch.inf)
    save_file(values, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder, {}


def scaled(home: Path, out: Path) -> tuple[Path, dict[str, Any]]:
    return home / "image", {"method": {"name": "damc", "scale": 0.5}}


def selective(home: Path, out: Path) -> tuple[Path, dict[str, Any]]:
    return home / "image", {"select": {"include": "q_proj"}}


def as_adapter(home: Path, out: Path) -> tuple[Path, dict[str, Any]]:
    return home / "image", {"output": "adapter"}


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (full, "no plain LoRA adapter"),
        (embedding, "linear layers only"),
        (dora, "no plain LoRA adapter"),
        (broken, "NaN or infinity"),
        (scaled, "no settings"),
        (selective, r"select[\s\S]*whole adapters"),
        (as_adapter, "no single adapter"),
    ],
)
def test_what_cannot_be_kept_apart_is_refused(make: Any, told: str, home: Path, tmp_path: Path) -> None:
    expert, more = make(home, tmp_path)
    asked = {**recipe(home, "audio"), **more}
    asked["experts"] = [*asked["experts"], str(expert)]
    with pytest.raises(InputError, match=told):
        compose(asked, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_output_is_replaced_only_when_asked(home: Path, tmp_path: Path) -> None:
    compose(recipe(home, "audio"), tmp_path / "out")
    with pytest.raises(InputError, match="--overwrite"):
        compose(recipe(home, "image"), tmp_path / "out")
    inside = recipe(home, "audio") | {"experts": [str(shutil.copytree(home / "audio", tmp_path / "out/in"))]}
    with pytest.raises(InputError, match="an input lies in the output folder"):
        compose(inside, tmp_path / "out", options=Options(mode="overwrite"))
    compose(recipe(home, "image"), tmp_path / "out", options=Options(mode="overwrite"))
    assert list(OmniProcessor.from_pretrained(tmp_path / "out").towers) == ["image"]


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(each.relative_to(folder)): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


def test_an_interrupted_composition_is_owned_resumed_and_ends_the_same(
    home: Path, composed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, out = recipe(home, "image", "audio"), tmp_path / "out"

    def stop(*_: object) -> None:
        for mode in ("overwrite", "resume"):
            with pytest.raises(InputError, match="another merge is writing"):
                compose(asked, out, options=Options(mode=mode))
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("optmerge.omni.composed_writer._write_record", stop)
        with pytest.raises(KeyboardInterrupt):
            compose(asked, out)
    assert not (out / "model.safetensors").exists()
    with pytest.raises(InputError, match="--resume"):
        compose(asked, out)
    with pytest.raises(InputError, match="another expert 'audio'"):
        compose(recipe(home, "image"), out, options=Options(mode="resume"))
    compose(asked, out, options=Options(mode="resume"))
    assert files_of(out) == files_of(composed)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    compose(asked, out, options=Options(mode="resume"))
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}


def test_nothing_of_an_earlier_output_is_left_beside_the_new_one(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    compose(recipe(home, "image", "audio"), out)
    (out / "mine.txt").write_text("a note")
    compose(recipe(home, "image", method="naivemc"), out, options=Options(mode="overwrite"))
    assert (out / "towers/image").is_dir() and not any((out / "towers").rglob("audio/*"))
    assert (out / "mine.txt").read_text() == "a note"
