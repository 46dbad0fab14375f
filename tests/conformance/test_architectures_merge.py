"""Every family: the merged folder loads in transformers and computes what the same merge in memory does."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.auto import modeling_auto

import optmerge
from optmerge.architectures import Architecture, Role, registered, resolve
from optmerge.engine.planning.selection import layout_of
from optmerge.engine.verify.checks import verify
from optmerge.errors import CheckpointError
from optmerge.methods import Context
from worlds import samples
from worlds.models import TINY, build, forward

NOISE, TOLERANCE = 0.02, 1e-5
EVERYTHING: dict[str, Any] = {"components": None, "kinds": None}
MATRICES: dict[str, Any] = {"components": None, "kinds": ["matrix"]}
MERGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "everything": ({"name": "task_arithmetic", "scale": 0.7}, EVERYTHING),
    "language": ({"name": "task_arithmetic", "scale": 0.7}, {}),
    "optmerge": ({"name": "optmerge", "variant": "lora", "scale": 0.5}, MATRICES),
}
LOADED = [
    (name, what)
    for place, name in enumerate(sorted(TINY))
    for turn, what in enumerate(MERGES)
    if samples.EVERYTHING or place % (len(MERGES) ** 2) == 4 * turn
]
"""Every family by every merge, or every third family by one of them, turn by turn."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers.utils.logging.disable_progress_bar()
    return tmp_path_factory.mktemp("merged")


@dataclass(frozen=True)
class Family:
    """A base and two experts, in memory and on disk."""

    base: PreTrainedModel
    experts: tuple[PreTrainedModel, ...]
    folder: Path

    @property
    def paths(self) -> list[str]:
        return [str(self.folder / name) for name in ("base", "e0", "e1")]

    def recipe(self, method: Any, select: Mapping[str, Any]) -> dict[str, Any]:
        base, *experts = self.paths
        return {"base": base, "experts": experts, "method": method, "select": dict(select)}


@cache
def family(name: str, folders: Path) -> Family:
    torch.set_num_threads(1)
    base = TINY[name]()
    found = Family(base, tuple(tuned(base, seed) for seed in (0, 1)), folders / name)
    for model, path in zip((base, *found.experts), found.paths, strict=True):
        model.save_pretrained(path)
    return found


def tuned(base: PreTrainedModel, seed: int) -> PreTrainedModel:
    expert = copy.deepcopy(base)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in expert.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=NOISE)
    return expert


def auto_class(model: PreTrainedModel) -> Any:
    """What a user would load the model with: an Auto class that knows it, or its own."""
    for names, auto in (
        (modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, transformers.AutoModelForImageTextToText),
        (modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, transformers.AutoModelForCausalLM),
        (modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES, transformers.AutoModelForSeq2SeqLM),
    ):
        if names.get(model.config.model_type) == type(model).__name__:
            return auto
    return type(model)


def load(folder: Path, like: PreTrainedModel) -> PreTrainedModel:
    """The merged model, its loading without any complaint."""
    model, info = auto_class(like).from_pretrained(folder, output_loading_info=True)
    assert type(model) is type(like)
    assert not any(info[fault] for fault in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    loaded: PreTrainedModel = model.eval()
    return loaded


def merged_in_memory(models: Family, method: Mapping[str, Any], select: Mapping[str, Any]) -> PreTrainedModel:
    """The merge of the named parameters, tied ones once."""
    merged = copy.deepcopy(models.base)
    architecture = resolve(models.base.config.to_dict(), models.base.state_dict())
    on_disk = {
        architecture.canonical(name) for name in load_file(Path(models.paths[0]) / "model.safetensors")
    }
    theirs = [dict(expert.named_parameters()) for expert in models.experts]
    wanted = {"components": ["language"], "kinds": ["matrix"], **select}
    with torch.no_grad():
        for name, parameter in merged.named_parameters():
            role = architecture.role(name, tuple(parameter.shape))
            if all(wanted[key] is None or value in wanted[key] for key, value in _parts(role)):
                deltas = torch.stack([expert[name] - parameter for expert in theirs])
                whole = architecture.canonical(name) in on_disk
                parameter.add_(merged_delta(name, deltas, method, role, whole), alpha=method["scale"])
    return merged


def _parts(role: Role) -> tuple[tuple[str, str], ...]:
    return ("components", role.component), ("kinds", role.kind)


def merged_delta(name: str, deltas: Tensor, method: Mapping[str, Any], role: Role, whole: bool) -> Tensor:
    """As files hold it: each expert of a mixture by itself, gate and up apart, unless stored as one."""
    if not whole:
        parts = 2 if "gate_up" in name else 1
        pieces = [each.chunk(parts, dim=1) for each in deltas.unbind(1)]
        merged = [torch.cat([_merge(piece, method, "matrix") for piece in each]) for each in pieces]
        return torch.stack(merged)
    return _merge(deltas, method, layout_of(role, tuple(deltas.shape[1:])))


def _merge(deltas: Tensor, method: Mapping[str, Any], layout: Any) -> Tensor:
    options = {key: value for key, value in method.items() if key not in ("name", "scale")}
    found: Tensor = optmerge.merge_deltas(
        method["name"], deltas.contiguous(), context=Context(layout=layout), **options
    )
    return found


@pytest.mark.sampled
@pytest.mark.parametrize(("name", "what"), LOADED)
def test_a_merged_family_loads_and_computes_what_memory_does(
    name: str, what: str, folders: Path, tmp_path: Path
) -> None:
    models = family(name, folders)
    method, select = MERGES[what]
    optmerge.merge(models.recipe(method, select), tmp_path / "out")
    expected = forward(merged_in_memory(models, method, select))

    loaded = load(tmp_path / "out", models.base)

    torch.testing.assert_close(forward(loaded), expected, rtol=TOLERANCE, atol=TOLERANCE)
    assert not torch.allclose(expected, forward(models.base), atol=10 * TOLERANCE)


@pytest.mark.sampled
@pytest.mark.parametrize("name", samples.sample(sorted(TINY), 10))
def test_a_merged_family_is_laid_out_as_save_pretrained_would_and_verifies(
    name: str, folders: Path, tmp_path: Path
) -> None:
    models = family(name, folders)
    optmerge.merge(models.recipe("average", EVERYTHING), tmp_path / "out")
    load(tmp_path / "out", models.base).save_pretrained(tmp_path / "saved")
    ours, theirs = (load_file(tmp_path / folder / "model.safetensors") for folder in ("out", "saved"))

    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    found = verify(tmp_path / "out")
    assert found.ok, found.checks


@pytest.mark.sampled
@pytest.mark.parametrize(
    "name", samples.sample((n for n, f in registered().items() if f.tie and n in TINY), 4)
)
def test_an_untied_family_loads_with_both_ends_of_its_own(name: str, tmp_path: Path) -> None:
    base = build(name, tie_word_embeddings=True)
    expert = copy.deepcopy(base)
    head = expert.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach() + NOISE)
    for config in (expert.config, expert.config.get_text_config()):
        config.tie_word_embeddings = False
    for model, path in ((base, "base"), (expert, "expert")):
        model.save_pretrained(tmp_path / path)
    recipe = Family(base, (expert,), tmp_path).recipe({"name": "task_arithmetic", "scale": 0.5}, EVERYTHING)
    recipe |= {"base": str(tmp_path / "base"), "experts": [str(tmp_path / "expert")], "untie": True}
    optmerge.merge(recipe, tmp_path / "out")
    loaded = load(tmp_path / "out", base)
    loaded.save_pretrained(tmp_path / "saved")

    before = base.get_input_embeddings().weight
    torch.testing.assert_close(loaded.get_input_embeddings().weight, before)
    torch.testing.assert_close(loaded.get_output_embeddings().weight, before + 0.5 * NOISE)
    names = [load_file(tmp_path / folder / "model.safetensors").keys() for folder in ("out", "saved")]
    assert names[0] == names[1]
    assert verify(tmp_path / "out").ok


# --- checkpoints in the names of transformers 4

VERSION_4 = {
    "qwen2_vl": {r"model.visual.": "visual.", r"model.language_model.": "model."},
    "llava": {"model.language_model.": "language_model.model.", "lm_head.": "language_model.lm_head."},
    "internvl": {"model.language_model.": "language_model.model.", "lm_head.": "language_model.lm_head."},
    "gemma3": {"model.language_model.": "language_model.model.", "lm_head.": "language_model.lm_head."},
    "qwen2_audio": {"model.language_model.": "language_model.model.", "lm_head.": "language_model.lm_head."},
}
BESIDE = ("vision_tower.", "multi_modal_projector.", "audio_tower.")


def renamed(name: str, rules: Mapping[str, str]) -> str:
    """A name in memory as transformers 4 wrote it."""
    for new, old in rules.items():
        if name.startswith(new):
            return old + name.removeprefix(new)
    return name.removeprefix("model.") if name.removeprefix("model.").startswith(BESIDE) else name


@pytest.mark.parametrize("name", VERSION_4)
def test_an_expert_in_old_names_meets_a_base_in_new_ones(name: str, folders: Path, tmp_path: Path) -> None:
    models = family(name, folders)
    architecture = resolve(models.base.config.to_dict(), models.base.state_dict())
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        models.experts[1].save_pretrained(folder)
    tensors = {
        architecture.canonical(key): value for key, value in load_file(old / "model.safetensors").items()
    }
    former = {renamed(key, VERSION_4[name]): value for key, value in tensors.items()}
    assert former.keys() != tensors.keys()
    save_file(former, old / "model.safetensors", {"format": "pt"})
    save_file(tensors, new / "model.safetensors", {"format": "pt"})
    base = tmp_path / "base"
    models.base.save_pretrained(base)
    new_names(architecture, base)

    recipe = {"base": str(base), "method": "average", "select": EVERYTHING}
    optmerge.merge({**recipe, "experts": [models.paths[1], str(old)]}, tmp_path / "with-old")
    optmerge.merge({**recipe, "experts": [models.paths[1], str(new)]}, tmp_path / "with-new")

    found, expected = (load_file(tmp_path / f"with-{each}" / "model.safetensors") for each in ("old", "new"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    loaded = load(tmp_path / "with-old", models.base)
    reference = merged_in_memory(models, {"name": "task_arithmetic", "scale": 0.5}, EVERYTHING)
    torch.testing.assert_close(forward(loaded), forward(reference), rtol=TOLERANCE, atol=TOLERANCE)


def new_names(architecture: Architecture, folder: Path) -> None:
    """Rewrites a checkpoint in the names that parameters have in memory."""
    file = folder / "model.safetensors"
    save_file({architecture.canonical(k): v for k, v in load_file(file).items()}, file, {"format": "pt"})


@pytest.mark.parametrize("name", ["qwen3_moe", "mixtral"])
def test_experts_of_a_mixture_stacked_in_one_checkpoint_and_not_in_the_other_are_refused(
    name: str, folders: Path, tmp_path: Path
) -> None:
    models = family(name, folders)
    models.experts[0].config.save_pretrained(tmp_path / "stacked")
    state = {key: value.contiguous() for key, value in models.experts[0].state_dict().items()}
    save_file(state, tmp_path / "stacked" / "model.safetensors", {"format": "pt"})
    recipe = models.recipe("average", EVERYTHING) | {"experts": [str(tmp_path / "stacked")]}

    with pytest.raises(CheckpointError, match="'stacked' stores its mixture in another layout"):
        optmerge.plan(recipe)


# --- adapters

ADAPTED = ("llama", "qwen2_vl", "internvl", "qwen2_audio", "gemma3")
TARGETS = ["q_proj", "v_proj", "down_proj"]


@cache
def adapters(name: str, folders: Path) -> tuple[Path, ...]:
    """Two LoRA adapters of a family, saved by peft."""
    import peft

    models, found = family(name, folders), []
    for seed in (0, 1):
        settings = peft.LoraConfig(r=3 + seed, lora_alpha=5, target_modules=TARGETS)
        wrapped = peft.get_peft_model(copy.deepcopy(models.base), settings)
        generator = torch.Generator().manual_seed(50 + seed)
        with torch.no_grad():
            for key, parameter in wrapped.named_parameters():
                if "lora_" in key:
                    parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
        folder = folders / f"{name}-adapter-{seed}"
        wrapped.save_pretrained(folder)
        found.append(folder)
    return tuple(found)


def unloaded(name: str, folders: Path) -> Family:
    """The same two experts as full models, merged by peft itself."""
    import peft

    models = family(name, folders)
    experts = tuple(
        peft.PeftModel.from_pretrained(copy.deepcopy(models.base), folder).merge_and_unload()
        for folder in adapters(name, folders)
    )
    return Family(models.base, experts, models.folder)


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("name", "method"), samples.sample(product(ADAPTED, ("task_arithmetic", "optmerge")), 3)
)
def test_merged_adapters_compute_what_merged_full_models_do_and_fit_an_adapter_again(
    name: str, method: str, folders: Path, tmp_path: Path
) -> None:
    import peft

    models = unloaded(name, folders)
    options = {"name": method, "scale": 0.7, **({"variant": "lora"} if method == "optmerge" else {})}
    recipe = models.recipe(options, MATRICES) | {"experts": [str(each) for each in adapters(name, folders)]}
    optmerge.merge(recipe, tmp_path / "dense")
    optmerge.merge({**recipe, "output": "adapter"}, tmp_path / "adapter")
    expected = forward(merged_in_memory(models, options, MATRICES))

    dense = load(tmp_path / "dense", models.base)
    adapter = peft.PeftModel.from_pretrained(copy.deepcopy(models.base), tmp_path / "adapter")

    torch.testing.assert_close(forward(dense), expected, rtol=1e-4, atol=TOLERANCE)
    torch.testing.assert_close(forward(adapter.get_base_model()), forward(dense), rtol=1e-4, atol=TOLERANCE)
    found = verify(tmp_path / "adapter", base=models.paths[0])
    assert found.ok, found.checks


@pytest.mark.sampled
@pytest.mark.parametrize("name", samples.sample(ADAPTED, 2))
def test_an_adapter_and_a_full_model_are_merged_together(name: str, folders: Path, tmp_path: Path) -> None:
    full, low = family(name, folders), unloaded(name, folders)
    models = Family(full.base, (low.experts[0], full.experts[1]), full.folder)
    method = {"name": "task_arithmetic", "scale": 0.7}
    recipe = models.recipe(method, EVERYTHING) | {"experts": [str(adapters(name, folders)[0]), full.paths[2]]}
    optmerge.merge(recipe, tmp_path / "out")

    expected = forward(merged_in_memory(models, method, EVERYTHING))
    loaded = forward(load(tmp_path / "out", full.base))
    torch.testing.assert_close(loaded, expected, rtol=1e-4, atol=TOLERANCE)
