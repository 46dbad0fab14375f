"""What a search may choose, and the recipes that candidates stand for."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from optmerge.errors import InputError
from optmerge.methods import get, registered
from optmerge.recipe import Recipe, parse_recipe
from optmerge.tune.candidates import (
    FRACTIONS,
    PARTS,
    STRENGTHS,
    Candidate,
    Space,
    methods_for,
    parts_of,
    shares,
)

LANGUAGE = ("language",)


def asked(**more: Any) -> Recipe:
    return parse_recipe({"base": "b", "experts": ["one", "two"], "method": "swudi", **more})


def space(*parts: str, methods: tuple[str, ...] = ("swudi", "ties"), recipe: Recipe | None = None) -> Space:
    return Space(recipe or asked(), methods, parts_of(parts), ("language", "projector"))


def test_the_default_candidate_is_the_recipe_itself() -> None:
    recipe = asked(method={"name": "swudi", "scale": 0.7, "steps": 50}, rules=[])
    assert space("strength", recipe=recipe).default().recipe(recipe).plain() == recipe.plain()


def test_one_strength_is_the_methods_and_several_are_rules_for_their_components() -> None:
    recipe = asked(select={"components": ["language", "projector"], "kinds": ["matrix"]})
    one = Candidate("ties", {"language": 0.8, "projector": 0.8}, {"keep": 0.3}, (1.0, 0.5)).recipe(recipe)
    assert (one.method.name, one.method.strength, one.method.parameters) == ("ties", 0.8, {"keep": 0.3})
    assert one.rules == [] and [expert.weight for expert in one.experts] == [1.0, 0.5]
    two = Candidate("ties", {"language": 1.0, "projector": 0.5}, {}, (1.0, 1.0)).recipe(recipe)
    assert two.method.strength == 1
    (rule,) = two.rules
    assert rule.match.components == ["projector"] and rule.match.kinds == ["matrix"]
    assert rule.method is not None and (rule.method.name, rule.method.strength) == ("ties", 0.5)


def test_the_recipes_own_strength_and_parameters_belong_to_its_own_method_alone() -> None:
    recipe = asked(method={"name": "swudi", "scale": 0.5, "strength": 0.5, "steps": 50})
    same = Candidate("swudi", {"language": 0.5}, {}, (1.0, 1.0)).recipe(recipe).method
    assert (same.scale, same.strength, same.parameters) == (0.5, 0.25, {"steps": 50})
    other = Candidate("ties", {"language": 0.5}, {}, (1.0, 1.0)).recipe(recipe).method
    assert (other.scale, other.strength, other.parameters) == (None, 0.5, {})


@pytest.mark.parametrize("part", [*PARTS, "strength weights", "method components parameters"])
def test_whatever_is_drawn_makes_a_recipe_that_can_be_parsed(part: str) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    there = space(*part.split(), methods=("swudi", "ties", "tsv") if "method" in part else ("ties",))
    for _ in range(8):
        candidate = there.draw(study.ask())
        assert candidate.method in there.methods
        assert all(STRENGTHS[0] <= each <= STRENGTHS[1] for each in candidate.strengths.values())
        assert all(FRACTIONS[0] <= each <= FRACTIONS[1] for each in candidate.parameters.values())
        get(candidate.method).validate(candidate.recipe(there.asked).method.parameters)


@pytest.mark.parametrize(
    "parts", [("method", "strength"), ("strength",), ("components",), ("weights", "strength")]
)
def test_the_first_candidates_are_the_methods_as_they_are_by_default(parts: tuple[str, ...]) -> None:
    there = space(*parts, methods=("swudi", "ties") if "method" in parts else ("swudi",))
    study = optuna.create_study()
    for values in there.first():
        study.enqueue_trial(values)
    drawn = [there.draw(study.ask()) for _ in there.methods]
    assert drawn[0] == there.default()
    assert [each.method for each in drawn] == list(there.methods)
    assert all(set(each.strengths.values()) == {1.0} for each in drawn)


def test_methods_that_take_other_numbers_of_experts_or_have_no_scale_are_not_tried_unasked() -> None:
    found = methods_for(asked(), [])
    assert found[0] == "swudi" and "average" not in found and "tsv" in found and len(set(found)) == len(found)
    three = parse_recipe({"base": "b", "experts": ["a", "b", "c"], "method": "swudi"})
    assert "slerp" not in methods_for(three, []) and "slerp" in registered()
    assert methods_for(asked(), ["tsv", "tsv"]) == ("tsv",)
    assert methods_for(asked(), ["auto"]) == ("swudi",)


def test_shares_are_the_parameters_in_the_unit_interval() -> None:
    assert "keep" in shares("ties") and shares("task_arithmetic") == ()


def test_unknown_methods_and_parts_are_refused_with_the_nearest_name() -> None:
    with pytest.raises(InputError, match="did you mean 'swudi'"):
        methods_for(asked(), ["swudy"])
    with pytest.raises(InputError, match="did you mean 'strength'"):
        parts_of(["strenght"])
