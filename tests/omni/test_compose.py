"""Composition: language models merged by the ordinary engine, towers carried over as they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
)

from optmerge.engine.merge import Options
from optmerge.errors import CheckpointError, InputError, OutputError
from optmerge.omni import OmniConfig, OmniForConditionalGeneration, OmniProcessor
from optmerge.omni.compose import compose
from optmerge.omni.composed_model import open_composition
from optmerge.recipe import parse_recipe
from worlds import omni as tiny
from worlds import omni_zoo as zoo
from worlds.samples import sample

KINDS = {"image": "clip", "audio": "whisper", "video": "frames"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, three full experts and three adapters."""
    folder = tmp_path_factory.mktemp("zoo")
    llm = zoo.base(folder / "llm")
    for seed, (modality, kind) in enumerate(KINDS.items(), 1):
        zoo.full(llm, folder / f"full-{modality}", kind, seed=seed)
        zoo.adapted(llm, folder / f"lora-{modality}", kind, seed=seed, rank=1 + seed)
    return folder


def recipe(home: Path, kind: str = "full", method: Any = "average", **more: Any) -> dict[str, Any]:
    experts = [str(home / f"{kind}-{modality}") for modality in KINDS]
    return {"base": str(home / "llm"), "experts": experts, "method": method, **more}


def ask_everything(processor: OmniProcessor) -> Any:
    return processor(
        "a <video> b <image> c <audio> what ?",
        images=tiny.picture(),
        audio=tiny.sound(),
        videos=[tiny.clip()],
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def towers_of(home: Path, kind: str) -> dict[str, torch.Tensor]:
    """What every expert's towers hold, its own projector for the one it was trained on."""
    found = {}
    for modality in KINDS:
        folder = home / f"{kind}-{modality}"
        start = folder if kind == "full" else folder.with_name(f"{folder.name}-start")
        found |= {name: value for name, value in weights(start).items() if name.startswith("towers.")}
        if kind == "lora":
            tuned = load_file(folder / "adapter_model.safetensors")
            found |= {n.removeprefix("base_model.model."): v for n, v in tuned.items() if ".projector." in n}
    return found


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_every_tower_is_carried_over_bit_for_bit(home: Path, kind: str, tmp_path: Path) -> None:
    composed = compose(recipe(home, kind, "optmerge"), tmp_path / "out").path
    found = {name: value for name, value in weights(composed).items() if name.startswith("towers.")}
    expected = towers_of(home, kind)
    assert found.keys() == expected.keys() and len(found) > 150
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_language_models_are_merged_by_the_ordinary_engine(home: Path, tmp_path: Path) -> None:
    composed = weights(compose(recipe(home), tmp_path / "out").path)
    base = load_file(home / "llm/model.safetensors")
    experts = [weights(home / f"full-{modality}") for modality in KINDS]
    merged = 0
    for name, value in base.items():
        own = f"language_model.{name}"
        mean = torch.stack([expert[own] for expert in experts]).mean(0)
        matrix = "proj" in name and name.endswith(".weight")
        merged += matrix
        assert torch.allclose(composed[own], mean if matrix else value, atol=1e-6), name
    assert merged == 14


@pytest.mark.sampled
@pytest.mark.parametrize("method", sample(["task_arithmetic", "ties", "optmerge", "wudi"], 2))
def test_adapters_give_what_their_merged_checkpoints_give(home: Path, method: str, tmp_path: Path) -> None:
    for modality in KINDS:
        zoo.merged(home / f"lora-{modality}", tmp_path / f"merged-{modality}")
    shutil.copytree(home / "llm", tmp_path / "llm")
    asked = {"name": method, "scale": 0.7}
    if method == "optmerge":
        asked["variant"] = "lora"  # which adapters imply, and checkpoints don't
    from_adapters = weights(compose(recipe(home, "lora", asked), tmp_path / "a").path)
    from_full = weights(compose(recipe(tmp_path, "merged", asked), tmp_path / "b").path)
    assert from_adapters.keys() == from_full.keys()
    base = load_file(home / "llm/model.safetensors")
    moved = [n for n, v in base.items() if not torch.equal(from_adapters[f"language_model.{n}"], v)]
    assert len(moved) == 6
    for name, value in from_adapters.items():
        assert torch.allclose(value, from_full[name], atol=2e-4), name


def test_adapters_stay_factors(home: Path) -> None:
    inputs = open_composition(parse_recipe(recipe(home, "lora")), {}).inputs
    assert inputs.low_rank
    name = "language_model.model.layers.0.self_attn.q_proj.weight"
    assert [expert.rank(name) for expert in inputs.experts] == [2, 3, 4]


def test_an_expert_composed_alone_answers_as_before(home: Path, tmp_path: Path) -> None:
    everything = {"components": ["language"], "kinds": None}
    task = {"name": "task_arithmetic", "scale": 1.0}
    for modality in KINDS:
        item = {tiny.ARGUMENT[modality]: [tiny.ITEMS[modality]()]}
        for kind in ("full", "lora"):
            expert = home / f"{kind}-{modality}"
            asked = {
                "base": str(home / "llm"),
                "experts": [str(expert)],
                "method": task,
                "select": everything,
            }
            done = compose(asked, tmp_path / f"{kind}-{modality}")
            model = AutoModelForImageTextToText.from_pretrained(done.path)
            inputs = AutoProcessor.from_pretrained(done.path)(f"a <{modality}> what ?", **item)
            original = (
                zoo.load_adapted(expert)
                if kind == "lora"
                else OmniForConditionalGeneration.from_pretrained(expert)
            )
            assert torch.allclose(zoo.logits(model, inputs), zoo.logits(original, inputs), atol=1e-4)


def test_the_composed_model_takes_all_modalities_at_once(home: Path, tmp_path: Path) -> None:
    done = compose(recipe(home, "lora", "optmerge"), tmp_path / "out")
    processor = AutoProcessor.from_pretrained(done.path)
    model, info = OmniForConditionalGeneration.from_pretrained(done.path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    told = model.generate(**ask_everything(processor), do_sample=False, max_new_tokens=4)
    assert told.shape[0] == 1
    assert done.result is not None and done.result.plan.counts()["merge"] == 6


def test_base_and_adapter_answer_as_the_dense_model_does(home: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    dense = compose(recipe(home, "lora", "optmerge"), tmp_path / "dense").path
    done = compose(recipe(home, "lora", "optmerge", output="adapter"), tmp_path / "split")
    assert done.path == tmp_path / "split/base" and done.adapter == tmp_path / "split/adapter"
    named = json.loads((done.adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert (done.adapter / named).resolve() == done.path.resolve()
    inputs = ask_everything(OmniProcessor.from_pretrained(done.path))
    base = OmniForConditionalGeneration.from_pretrained(done.path)
    untouched = zoo.logits(base, inputs)
    split = PeftModel.from_pretrained(base, done.adapter).eval()
    expected = zoo.logits(OmniForConditionalGeneration.from_pretrained(dense), inputs)
    assert torch.allclose(zoo.logits(split, inputs), expected, atol=1e-4)
    assert not torch.allclose(untouched, expected, atol=1e-2)
    language = load_file(home / "llm/model.safetensors")
    own = weights(done.path)
    assert all(torch.equal(own[f"language_model.{name}"], value) for name, value in language.items())


def test_naivemc_is_the_average_of_all_that_was_learnt(home: Path, tmp_path: Path) -> None:
    composed = weights(compose(recipe(home, "full", "naivemc"), tmp_path / "out").path)
    experts = [weights(home / f"full-{modality}") for modality in KINDS]
    for name in experts[0]:
        if name.startswith("language_model."):
            mean = torch.stack([expert[name] for expert in experts]).mean(0)
            assert torch.allclose(composed[name], mean, atol=1e-6), name


def test_the_base_may_be_the_language_model_of_an_omni_model(home: Path, tmp_path: Path) -> None:
    from_llm = weights(compose(recipe(home, "lora"), tmp_path / "a").path)
    asked = recipe(home, "lora") | {"base": str(home / "lora-image-start")}
    from_omni = weights(compose(asked, tmp_path / "b").path)
    assert from_llm.keys() == from_omni.keys()
    assert all(torch.equal(value, from_omni[name]) for name, value in from_llm.items())


def test_a_tied_language_model_is_composed_tied(tmp_path: Path) -> None:
    llm = zoo.base(tmp_path / "llm", tie_word_embeddings=True)
    zoo.full(llm, tmp_path / "full-image", "clip", seed=1)
    zoo.full(llm, tmp_path / "full-audio", "whisper", seed=2)
    experts = [str(tmp_path / "full-image"), str(tmp_path / "full-audio")]
    done = compose({"base": str(llm), "experts": experts, "method": "naivemc"}, tmp_path / "out")
    model = OmniForConditionalGeneration.from_pretrained(done.path)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_two_experts_of_one_modality_need_a_word_of_the_user(home: Path, tmp_path: Path) -> None:
    zoo.full(home / "llm", tmp_path / "other", "siglip", seed=9)
    experts = [str(home / "full-image"), str(tmp_path / "other"), str(home / "full-audio")]
    asked = {"base": str(home / "llm"), "experts": experts, "method": "average"}
    with pytest.raises(InputError, match=r"2 experts have a tower for image[\s\S]*--tower image=full-image"):
        compose(asked, tmp_path / "out")
    with pytest.raises(InputError, match="did you mean 'other'"):
        compose(asked, tmp_path / "out", towers={"image": "othre"})
    with pytest.raises(InputError, match="no expert has one"):
        compose(asked, tmp_path / "out", towers={"video": "other"})
    composed = weights(compose(asked, tmp_path / "out", towers={"image": "other"}).path)
    theirs = weights(tmp_path / "other")
    image = [name for name in composed if name.startswith("towers.image.")]
    assert image and all(torch.equal(composed[name], theirs[name]) for name in image)
    name = "language_model.model.layers.1.mlp.up_proj.weight"
    mean = torch.stack([weights(Path(expert))[name] for expert in experts]).mean(0)
    assert torch.allclose(composed[name], mean, atol=1e-6)


def other_base(home: Path, out: Path) -> Path:
    return zoo.full(zoo.base(out / "llm2", seed=7), out / "expert", "whisper")


def wider(home: Path, out: Path) -> Path:
    return zoo.full(zoo.base(out / "llm2", intermediate_size=56), out / "expert", "whisper")


def more_words(home: Path, out: Path) -> Path:
    return zoo.full(zoo.base(out / "llm2", vocab_size=41), out / "expert", "whisper")


def other_words(home: Path, out: Path) -> Path:
    expert = zoo.full(home / "llm", out / "expert", "whisper")
    text = (expert / "tokenizer.json").read_text()
    (expert / "tokenizer.json").write_text(text.replace('"a"', '"A"'))
    return expert


def same_id(home: Path, out: Path) -> Path:
    words = tiny.tokenizer()
    taken = words.convert_tokens_to_ids("<image>")
    tower = tiny.tower("whisper", token="<image>", token_id=taken)
    return zoo.save(zoo.omni(home / "llm", tower, change=0.02), out / "expert", words)


def adapter_of_another(home: Path, out: Path) -> Path:
    return zoo.adapted(other_base(home, out) and out / "llm2", out / "adapter", "whisper")


def adapter_of_an_encoder(home: Path, out: Path) -> Path:
    return zoo.adapted(home / "llm", out / "adapter", "whisper", target=r".*\.(q_proj|down_proj)")


def projector_alone(home: Path, out: Path) -> Path:
    return zoo.adapted(
        home / "llm", out / "adapter", "whisper", target=r".*projector\.layers\.0", modules_to_save=[]
    )


def lost_start(home: Path, out: Path) -> Path:
    adapter = zoo.adapted(home / "llm", out / "adapter", "whisper")
    shutil.rmtree(out / "adapter-start")
    return adapter


def plain_llm(home: Path, out: Path) -> Path:
    return home / "llm"


def towerless(home: Path, out: Path) -> Path:
    return zoo.save(zoo.omni(home / "llm", change=0.02), out / "expert")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (other_base, r"another language model[\s\S]*median cosine"),
        (wider, r"another language model[\s\S]*intermediate_size 56"),
        (more_words, r"another vocabulary[\s\S]*41"),
        (other_words, r"another vocabulary[\s\S]*'A'"),
        (same_id, r"two experts have one placeholder[\s\S]*add_placeholders"),
        (adapter_of_another, r"another language model[\s\S]*bit for bit"),
        (adapter_of_an_encoder, r"changes a tower by low rank[\s\S]*merge_and_unload"),
        (projector_alone, r"changes a tower by low rank"),
        (lost_start, r"isn't there[\s\S]*base_model_name_or_path"),
        (plain_llm, r"not an omni model[\s\S]*omni import"),
        (towerless, "has no tower"),
    ],
)
def test_experts_that_do_not_belong_together_are_refused(
    make: Callable[[Path, Path], Path], told: str, home: Path, tmp_path: Path
) -> None:
    experts = [str(home / "full-image"), str(make(home, tmp_path))]
    with pytest.raises(InputError, match=told):
        compose({"base": str(home / "llm"), "experts": experts, "method": "average"}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tokenizers_that_lack_each_others_placeholders_are_refused(home: Path, tmp_path: Path) -> None:
    words = tiny.tokenizer()
    words.add_tokens(["<hear>"], special_tokens=True)
    tower = tiny.tower("whisper", token="<hear>", token_id=words.convert_tokens_to_ids("<hear>"))
    zoo.save(zoo.omni(home / "llm", tower, change=0.02), tmp_path / "hears", words)
    more = tiny.tokenizer()
    more.add_tokens(["<other>", "<see>"], special_tokens=True)
    seeing = tiny.tower("clip", token="<see>", token_id=more.convert_tokens_to_ids("<see>"))
    zoo.save(zoo.omni(home / "llm", seeing, change=0.02), tmp_path / "sees", more)
    experts = [str(tmp_path / "hears"), str(tmp_path / "sees")]
    with pytest.raises(InputError, match=r"no expert's tokenizer reads all[\s\S]*add_placeholders"):
        compose({"base": str(home / "llm"), "experts": experts, "method": "average"}, tmp_path / "out")


def test_an_adapter_trained_on_the_rounded_base_belongs_to_the_base(home: Path, tmp_path: Path) -> None:
    for name in ("lora-image", "lora-image-start"):
        shutil.copytree(home / name, tmp_path / name)
    rounded = OmniForConditionalGeneration.from_pretrained(home / "lora-image-start", dtype="bfloat16")
    rounded.save_pretrained(tmp_path / "lora-image-start")
    adapter = tmp_path / "lora-image/adapter_config.json"
    config = json.loads(adapter.read_text()) | {"base_model_name_or_path": "../lora-image-start"}
    adapter.write_text(json.dumps(config))
    asked = {"base": str(home / "llm"), "experts": [str(tmp_path / "lora-image")], "method": "naivemc"}
    composed = weights(compose(asked, tmp_path / "out").path)
    assert composed["towers.image.encoder.pre_layrnorm.weight"].dtype == torch.bfloat16
    assert composed["language_model.model.norm.weight"].dtype == torch.float32


def test_a_base_that_is_no_language_model_is_refused(home: Path, tmp_path: Path) -> None:
    AutoModel.from_config(AutoConfig.for_model(**tiny.ENCODERS["clip"])).save_pretrained(tmp_path / "clip")
    with pytest.raises(InputError, match=r"no causal language model[\s\S]*clip_vision_model"):
        compose(recipe(home) | {"base": str(tmp_path / "clip")}, tmp_path / "out")


@pytest.mark.parametrize(
    "value", [None, 3, "x", [], {"kind": "clip", "pooling": [0]}, {"encoder": {"model_type": 4}}]
)
def test_a_broken_configuration_is_refused(value: Any, home: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(home / "full-image", tmp_path / "broken")
    config = json.loads((broken / "config.json").read_text())
    for key in ("image_tower", "text_config"):
        (broken / "config.json").write_text(json.dumps({**config, key: value}))
        with pytest.raises(InputError):
            compose(
                {"base": str(home / "llm"), "experts": [str(broken)], "method": "average"}, tmp_path / "out"
            )


@pytest.mark.parametrize("more", [{"side_files": "full-image"}, {"allow_pickle": True}])
def test_a_recipe_that_means_nothing_here_is_refused(
    more: dict[str, Any], home: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=next(iter(more))):
        compose(recipe(home, **more), tmp_path / "out")


def test_nothing_is_left_of_a_composition_that_fails(home: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(home / "full-audio", tmp_path / "broken")
    values = weights(broken)
    values["language_model.model.layers.1.mlp.up_proj.weight"][3, 3] = torch.nan
    save_file(values, broken / "model.safetensors", metadata={"format": "pt"})
    experts = [str(home / "full-image"), str(broken)]
    for output in ("dense", {"format": "adapter", "rank": 4}):
        asked = {"base": str(home / "llm"), "experts": experts, "method": "average", "output": output}
        with pytest.raises(CheckpointError, match="NaN"):
            compose(asked, tmp_path / "out")
        assert not list((tmp_path / "out").rglob("*.safetensors"))


def test_outputs_are_replaced_only_when_asked(home: Path, tmp_path: Path) -> None:
    for output in ("dense", "adapter"):
        out = tmp_path / output
        compose(recipe(home, "lora", output=output), out)
        with pytest.raises(OutputError):
            compose(recipe(home, "lora", output=output), out)
        again = compose(recipe(home, "lora", "ties", output=output), out, options=Options(mode="overwrite"))
        assert again.result is not None and again.result.plan.recipe.method.name == "ties"
    with pytest.raises(OutputError, match="isn't empty"):
        compose(recipe(home), home)
    inside = shutil.copytree(home / "llm", tmp_path / "dense" / "llm")
    with pytest.raises(OutputError, match="an input lies in the output folder"):
        compose(recipe(home) | {"base": str(inside)}, tmp_path / "dense", options=Options(mode="overwrite"))


@pytest.mark.parametrize("output", ["dense", "adapter"])
def test_a_composition_is_not_written_over_its_own_input(output: str, home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    expert = compose(recipe(home, "lora", output=output), out).path
    before = files_of(out)
    with pytest.raises(OutputError, match=r"output folder is an input|input lies in the output folder"):
        compose(
            recipe(home, output=output) | {"experts": [str(expert)]}, out, options=Options(mode="overwrite")
        )
    assert files_of(out) == before


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(each.relative_to(folder)): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


@pytest.mark.parametrize("output", ["dense", "adapter"])
def test_a_second_composition_into_the_folder_is_refused_and_leaves_the_first_alone(
    output: str, home: Path, tmp_path: Path
) -> None:
    asked, out = recipe(home, "lora", output=output), tmp_path / "out"
    refused: list[OutputError] = []

    def start_another(*_: object) -> None:
        for mode in () if refused else ("new", "overwrite", "resume"):
            with pytest.raises(OutputError) as problem:
                compose(asked, out, options=Options(mode=mode))
            refused.append(problem.value)

    compose(asked, out, watch=lambda plan: nullcontext(start_another))
    assert len(refused) == 3 and "another merge is writing" in refused[1].what
    compose(asked, tmp_path / "undisturbed")
    assert files_of(out) == files_of(tmp_path / "undisturbed")


def test_a_finished_composition_is_resumed_at_once(home: Path, tmp_path: Path) -> None:
    compose(recipe(home), tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    again = compose(recipe(home), tmp_path / "out", options=Options(mode="resume")).result
    assert again is not None and again.resumed_tensors == len(again.plan.tensors)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}


def test_the_composed_configuration_is_that_of_base_and_towers(home: Path, tmp_path: Path) -> None:
    path = compose(recipe(home), tmp_path / "out").path
    config = OmniConfig.from_pretrained(path)
    assert list(config.towers) == ["image", "audio", "video"]
    llm = AutoModelForCausalLM.from_pretrained(home / "llm").config
    assert config.text_config.to_diff_dict() | {"architectures": 0, "transformers_version": 0} == (
        llm.to_diff_dict() | {"architectures": 0, "transformers_version": 0}
    )
