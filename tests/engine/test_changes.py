"""A merge says how far each expert moved, what of it the output hasn't, and what would keep it."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import optmerge
from optmerge import Options
from optmerge.engine.output import dense as dense_output
from optmerge.engine.plan import Change, TensorPlan
from optmerge.engine.planning import sampling
from optmerge.engine.verify.checks import verify
from optmerge.methods._fast.kernels import sum_squares
from optmerge.recipe.overrides import override
from worlds.merges import (
    CONFIG,
    EMBEDDING,
    HEAD,
    NORM,
    QUERY,
    UP,
    Tensors,
    World,
    contents,
    load,
    save,
    save_adapter,
    watching,
    weights,
    world,
)

PROJECTOR = ("model.multi_modal_projector.linear_1.weight", "model.multi_modal_projector.linear_1.bias")
MULTIMODAL = {**CONFIG, "model_type": "llava", "architectures": ["LlavaForConditionalGeneration"]}


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7))


def multimodal(seed: int = 0) -> Tensors:
    """A model in LLaVA's names: a language model, a projector and a vision tower of one matrix."""
    generator = torch.Generator().manual_seed(seed)
    found = {name.replace("model.", "model.language_model.", 1): each for name, each in weights(seed).items()}
    found[PROJECTOR[0]] = torch.randn(6, 4, generator=generator)
    found[PROJECTOR[1]] = torch.randn(6, generator=generator)
    found["model.vision_tower.encoder.weight"] = torch.randn(4, 4, generator=generator)
    return found


@pytest.fixture
def models(tmp_path: Path) -> World:
    return world(tmp_path)


@pytest.fixture
def llava(tmp_path: Path) -> World:
    """Expert e0 moved the language matrices by 10 % and the projector by half; e1 the former alone."""
    base = multimodal()
    folder = save(tmp_path / "base", base, config=MULTIMODAL)
    experts = []
    for index, part in enumerate((("_proj.weight", "projector"), ("_proj.weight",))):
        own = {
            n: t * (1.5 if "projector" in n else 1.1) if any(p in n for p in part) else t
            for n, t in base.items()
        }
        experts.append(save(tmp_path / f"e{index}", own, config=MULTIMODAL))
    return World(tmp_path, folder, tuple(experts))


def moved(plan: optmerge.Plan, expert: str, component: str, *, kept: bool) -> Change:
    return next(
        each for each in plan.changes if (each.expert, each.component, each.kept) == (expert, component, kept)
    )


def settings_of(warning: str) -> list[str]:
    return re.findall(r"--set (\S+)", warning)


def test_what_the_selection_leaves_out_is_named_with_its_size_and_the_option_that_keeps_it(
    llava: World,
) -> None:
    plan = optmerge.plan(llava.recipe())

    assert plan.warnings == (
        "e0 changed the projector (matrix, bias) by 50 %: left out; keep it with "
        "--set select.components=[language,projector] --set select.kinds=[matrix,bias]",
    )
    assert moved(plan, "e0", "language", kept=True).moved == pytest.approx(0.1, rel=1e-3)
    assert moved(plan, "e1", "projector", kept=False).changed == 0


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"select": {"kinds": ["norm"]}},
        {"select": {"exclude": ["layers.1", "lm_head"]}},
        {"select": {"include": ["layers.0"], "kinds": None}},
        {"select": {"components": ["vision", "language"], "include": ["norm", "vision"], "kinds": None}},
        {
            "method": {"name": "ties", "scale": 0},
            "rules": [{"match": {"kinds": ["norm"]}, "method": "average"}],
        },
    ],
    ids=str,
)
def test_the_option_that_a_warning_names_keeps_what_it_says(tmp_path: Path, changes: dict[str, Any]) -> None:
    base = multimodal()
    folders = [
        save(tmp_path / name, {n: t * by for n, t in base.items()}, config=MULTIMODAL)
        for name, by in (("base", 1), ("e0", 1.5))
    ]
    recipe = World(tmp_path, folders[0], (folders[1],)).recipe(**changes)
    before = optmerge.plan(recipe)
    assert any("left out" in warning for warning in before.warnings)
    for _ in range(4):  # one component a warning
        plan = optmerge.plan(recipe)
        told = [warning for warning in plan.warnings if "left out" in warning]
        if not told:
            break
        recipe = override(recipe, settings_of(told[0]))
        assert not any(warning == told[0] for warning in optmerge.plan(recipe).warnings)
    assert not told and all(change.kept for change in plan.changes)


def test_the_figures_of_a_run_are_exact(tmp_path: Path) -> None:
    base = {**weights(), EMBEDDING: random(5000, 6), UP: random(700, 300)}
    models = world(tmp_path, base={name: tensor.bfloat16() for name, tensor in base.items()})
    result = optmerge.merge(models.recipe(), models.out)
    before, after = models.tensors(), models.tensors(0)

    for kept, names in (
        (True, [n for n in before if "_proj" in n]),
        (False, [n for n in before if "_proj" not in n]),
    ):
        change = sum(float((after[n].double() - before[n].double()).square().sum()) for n in names)
        size = sum(float(before[n].double().square().sum()) for n in names)
        figure = moved(result.plan, "e0", "language", kept=kept)
        assert figure.exact and figure.moved == pytest.approx(math.sqrt(change / size), rel=1e-3)
    assert all(not each.exact for each in optmerge.plan(models.recipe()).changes)


def test_a_sample_of_a_large_tensor_is_near_the_truth_and_says_that_it_is_a_sample(tmp_path: Path) -> None:
    base = {**weights(), UP: random(700, 300)}
    models = world(tmp_path, base=base)
    guess = moved(optmerge.plan(models.recipe()), "e0", "language", kept=True)
    truth = moved(optmerge.merge(models.recipe(), models.out).plan, "e0", "language", kept=True)

    assert guess.moved == pytest.approx(truth.moved, rel=0.1)
    assert (guess.exact, truth.exact) == (False, True)


def test_a_change_of_one_row_that_no_sample_sees_is_found_while_running(tmp_path: Path) -> None:
    models = world(tmp_path, experts=1, base={**weights(), EMBEDDING: random(5000, 6)})
    models.rewrite(
        0, lambda tensors: tensors.update({k: v for k, v in models.tensors().items() if "_proj" not in k})
    )
    models.rewrite(0, lambda tensors: tensors[EMBEDDING][1234].add_(1))

    assert optmerge.plan(models.recipe()).warnings == ()
    (told,) = optmerge.merge(models.recipe(), models.out).warnings
    share = 100 * math.sqrt(6) / float(models.tensors()[EMBEDDING].norm())
    assert told.startswith(f"e0 changed the language model (embedding) by {share:.3g} %: left out")


def test_a_part_that_the_sample_shows_frozen_is_not_read_and_says_so(tmp_path: Path) -> None:
    base = {**multimodal(), "model.vision_tower.encoder.weight": random(100, 100)}
    folders = [
        save(tmp_path / name, {n: t * by if "_proj" in n else t for n, t in base.items()}, config=MULTIMODAL)
        for name, by in (("base", 1), ("e0", 2))
    ]
    result = optmerge.merge(World(tmp_path, folders[0], (folders[1],)).recipe(), tmp_path / "out")
    vision = moved(result.plan, "e0", "vision", kept=False)

    assert (vision.changed, vision.moved, vision.exact) == (0, 0.0, False)


@pytest.mark.parametrize(
    "zero", [{"method": "average"}, {"experts": None}], ids=["equal experts", "weight 0"]
)
def test_a_result_that_is_the_base_says_so(models: World, zero: dict[str, Any]) -> None:
    if "method" in zero:
        same = {name: each for name, each in models.tensors().items() if name != HEAD}
        for index in range(2):
            models.rewrite(index, lambda tensors: tensors.update(same))
        recipe = models.recipe(**zero)
    else:
        recipe = models.recipe(experts=[{"model": str(each), "weight": 0} for each in models.experts])
    said = "the result is the base: no expert changes anything that is merged"

    assert optmerge.plan(recipe).warnings[0] == said
    result = optmerge.merge(recipe, models.out)
    assert result.warnings[0] == said and verify(models.out, load=False).warnings[0] == said
    base, out = models.tensors(), load(models.out)
    assert all(torch.equal(out[name], base[name]) for name in base)


def test_an_adapter_says_what_it_changed(models: World, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "a", (QUERY, UP))
    result = optmerge.merge(models.recipe(experts=[str(adapter)], select={"include": ["mlp"]}), models.out)
    stored, base = load(adapter), models.tensors()
    for name, kept in ((UP, True), (QUERY, False)):
        module = "base_model.model." + name.removesuffix(".weight")
        delta = 2 * stored[f"{module}.lora_B.weight"] @ stored[f"{module}.lora_A.weight"]
        figure = moved(result.plan, "a", "language", kept=kept)
        assert figure.exact and figure.moved == pytest.approx(
            float(delta.norm() / base[name].norm()), rel=1e-3
        )
    guess = optmerge.plan(models.recipe(experts=[str(adapter)])).changes
    assert guess[0].moved == pytest.approx(
        optmerge.merge(models.recipe(experts=[str(adapter)]), tmp_path / "all").plan.changes[0].moved,
        rel=1e-3,
    )


def test_a_merged_adapter_is_measured_without_a_look_at_the_base(models: World, tmp_path: Path) -> None:
    adapters = [str(save_adapter(tmp_path / f"a{seed}", seed=seed)) for seed in (0, 1)]
    result = optmerge.merge(models.recipe(experts=adapters, output="adapter"), models.out)

    assert [each.expert for each in result.plan.changes] == ["a0", "a1"]
    assert all(each.moved and each.exact for each in result.plan.changes)


def test_provenance_card_and_verification_have_the_figures_of_the_run(llava: World) -> None:
    result = optmerge.merge(llava.recipe(), llava.out)
    record = json.loads((llava.out / "optmerge.json").read_text())
    found = verify(llava.out, load=False)

    assert len(record["changes"]) == len(result.plan.changes) > 0
    assert record["warnings"] == list(result.warnings) == list(found.warnings)
    assert "| `e0` | projector (matrix, bias) | 50 % | no |" in (llava.out / "README.md").read_text()
    assert found.changes == result.plan.changes


class Stop(BaseException):
    """Neither an `Exception` nor anything the engine knows, as a signal's would be."""


@pytest.mark.parametrize("journal", ["whole", "without figures"])
def test_a_resumed_merge_reports_the_same_figures(
    llava: World, monkeypatch: pytest.MonkeyPatch, journal: str
) -> None:
    monkeypatch.setattr(dense_output, "SYNC_SECONDS", 0.0)
    whole = optmerge.merge(llava.recipe(), llava.root / "whole")
    left = 5

    def count(tensor: TensorPlan, size: int) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise Stop

    with pytest.raises(Stop):
        optmerge.merge(llava.recipe(), llava.out, watch=watching(count))
    if journal == "without figures":
        file = llava.out / ".optmerge/journal.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        strange = ({"x": 3}, 3, {"x": {"e0": [1]}}, {"x": {"e0": ["1", 2, 3]}})
        for index, line in enumerate(line for line in lines if "squares" in line):
            line["squares"] = strange[index % len(strange)]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = optmerge.merge(llava.recipe(), llava.out, Options(mode="resume"))
    again = optmerge.merge(llava.recipe(), llava.out, Options(mode="resume"))

    assert result.resumed_tensors > 0
    assert result.plan.changes == whole.plan.changes == again.plan.changes
    assert contents(llava.out) == contents(llava.root / "whole")


@pytest.mark.parametrize("budget", [None, "2GiB"])
def test_a_budget_changes_no_figure(
    models: World, budget: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = optmerge.merge(models.recipe(), models.out, Options(memory=budget))

    assert [each.moved for each in result.plan.changes] == [
        each.moved for each in optmerge.plan(models.recipe()).changes
    ]


def test_what_is_not_finite_has_no_figure_and_breaks_nothing(models: World) -> None:
    models.rewrite(0, lambda tensors: tensors[NORM].fill_(math.inf))
    models.rewrite(1, lambda tensors: tensors[NORM].fill_(math.nan))
    result = optmerge.merge(models.recipe(), models.out)

    assert [moved(result.plan, name, "language", kept=False).moved for name in ("e0", "e1")] == [None, None]
    assert "NaN" not in (models.out / "optmerge.json").read_text()


def test_integers_that_differ_name_a_rule(tmp_path: Path) -> None:
    base = {**weights(), "model.layers.0.self_attn.steps": torch.arange(3)}
    models = world(tmp_path, experts=1, base=base)
    models.rewrite(0, lambda tensors: tensors["model.layers.0.self_attn.steps"].add_(1))
    told = optmerge.plan(models.recipe(select={"kinds": None})).warnings
    rule = {"match": {"include": [re.search(r"'(\^.*\$)'", told[0])[1]]}, "copy_from": "e0"}  # type: ignore[index]

    assert "a rule for what can't be merged" in told[0]
    assert optmerge.plan(models.recipe(select={"kinds": None}, rules=[rule])).warnings == ()


def test_hostile_figures_in_provenance_are_no_figures(llava: World) -> None:
    optmerge.merge(llava.recipe(), llava.out)
    file = llava.out / "optmerge.json"
    record = json.loads(file.read_text())
    for changes in (
        3,
        [3],
        [{}],
        [{**record["changes"][0], "moved": "much"}],
        [{**record["changes"][0], "kinds": 1}],
    ):
        file.write_text(json.dumps({**record, "changes": changes, "warnings": [3]}))
        found = verify(llava.out, load=False)
        assert found.ok and (found.warnings, found.changes) == ((), ())


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5000), st.sampled_from((torch.bfloat16, torch.float32)), st.integers(0, 99))
def test_compiled_sums_are_those_of_float64(size: int, dtype: torch.dtype, seed: int) -> None:
    rows = torch.randn(3, size, generator=torch.Generator().manual_seed(seed)).to(dtype)
    bits = rows.view(torch.uint16) if dtype == torch.bfloat16 else rows
    sums = np.empty(3)
    sum_squares(bits.numpy(), sums)
    wide = rows.double()
    truth = [wide[0].square().sum(), *((row - wide[0]).square().sum() for row in wide[1:])]

    assert sums == pytest.approx([float(each) for each in truth], rel=1e-5)


def test_models_of_many_tensors_are_sampled_at_fewer_places(
    models: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "MOST_SPOTS", 1)
    monkeypatch.setattr(sampling, "SPOT_ENTRIES", 8)
    plan = optmerge.plan(models.recipe())

    assert all(each.changed == each.tensors and not each.exact for each in plan.changes)
    assert replace(plan) == optmerge.plan(models.recipe())


def test_an_entry_is_found_where_the_last_two_axes_are_swapped() -> None:
    stored = torch.arange(24).view(2, 4, 3)
    whole = stored.transpose(-1, -2).flatten()  # as the base has it, (2, 3, 4)

    assert [int(stored.flatten()[sampling._swapped(at, (2, 3, 4))]) for at in range(24)] == whole.tolist()
