"""What is wrong with a recipe in itself, found before any model is looked for or downloaded."""

from __future__ import annotations

from collections.abc import Iterator

from optmerge.architectures import COMPONENTS, KINDS
from optmerge.engine.planning.sizes import parse_bytes
from optmerge.errors import MethodError, RecipeError, did_you_mean
from optmerge.methods import get
from optmerge.recipe import BASE, Match, MethodChoice, Recipe


def check_recipe(recipe: Recipe) -> None:
    """Refuses what no model could make right.

    Raises:
        RecipeError: an unknown component, kind or expert; an output that can't be asked for.
        MethodError: an unknown method, a bad parameter, or one that can't take these experts.
    """
    _check_matches(recipe)
    names = recipe.expert_names()
    for where, choice in _choices(recipe):
        try:
            _check_method(choice, [expert.weight for expert in recipe.experts])
        except MethodError as problem:
            raise MethodError(
                problem.what,
                where=f"{where}: {choice.name}",
                got=problem.got,
                expected=problem.expected,
                hint=problem.hint,
            ) from None
    for index, rule in enumerate(recipe.rules):
        if rule.copy_from is not None and rule.copy_from not in (BASE, *names):
            raise RecipeError(
                f"no expert is called {rule.copy_from!r}",
                where=f"rules.{index}.copy_from",
                hint=did_you_mean(rule.copy_from, (BASE, *names)),
            )
    _check_output(recipe)


def _choices(recipe: Recipe) -> Iterator[tuple[str, MethodChoice]]:
    yield "method", recipe.method
    for index, rule in enumerate(recipe.rules):
        if rule.method is not None:
            yield f"rules.{index}.method", rule.method


def _check_method(choice: MethodChoice, weights: list[float]) -> None:
    method = get(choice.name)
    method.check_experts(len(weights))
    method.validate(choice.parameters)
    method.expert_factors(weights)
    if method.fixed_scale and choice.scale not in (None, 1.0):
        raise MethodError(
            f"{choice.name} has no scale",
            got=choice.scale,
            hint="leave it out, or use task_arithmetic with scale/N",
        )


def _check_matches(recipe: Recipe) -> None:
    matches: list[tuple[str, Match]] = [("select", recipe.select)]
    matches += [(f"rules.{index}.match", rule.match) for index, rule in enumerate(recipe.rules)]
    for where, match in matches:
        for key, given, known in (
            ("components", match.components, COMPONENTS),
            ("kinds", match.kinds, KINDS),
        ):
            for value in given or ():
                if value not in known:
                    raise RecipeError(
                        f"unknown {key[:-1]} {value!r}",
                        where=f"{where}.{key}",
                        expected=", ".join(known),
                        hint=did_you_mean(value, known),
                    )


def _check_output(recipe: Recipe) -> None:
    output = recipe.output
    if output.rank is not None and output.format != "adapter":
        raise RecipeError(
            "a rank needs an adapter",
            where="output.rank",
            hint="write output: {format: adapter, rank: …}",
        )
    if output.shard_size is not None:
        parse_bytes(output.shard_size, "output.shard_size")
