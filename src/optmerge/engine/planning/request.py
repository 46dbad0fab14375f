"""What is wrong with a request in itself, found before any model is looked for or downloaded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import torch

from optmerge.architectures import COMPONENTS, KINDS
from optmerge.errors import MethodError, RecipeError, did_you_mean
from optmerge.methods import Method, ModifiedMethod, Parameters, get, modifier_use
from optmerge.recipe import AUTO, BASE, Match, MethodChoice, Recipe


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
    _check_side_files(recipe, names)
    _check_output(recipe)


def _choices(recipe: Recipe) -> Iterator[tuple[str, MethodChoice]]:
    yield "method", recipe.method
    for index, rule in enumerate(recipe.rules):
        if rule.method is not None:
            yield f"rules.{index}.method", rule.method


def _check_method(choice: MethodChoice, weights: list[float]) -> None:
    method = method_of(choice)
    method.check_experts(len(weights))
    parameters = method.validate(choice.parameters)
    method.expert_factors(weights)
    if isinstance(method, ModifiedMethod):
        _check_modified(method.inner, method.inner.resolve(parameters, False))
    if method.fixed_scale and (choice.scale not in (None, 1.0) or choice.strength != 1):
        raise MethodError(
            f"{choice.name} has no scale",
            got=choice.scale if choice.strength == 1 else f"strength {choice.strength}",
            hint="leave it out, or use task_arithmetic with scale/N",
        )
    if (
        choice.scale == AUTO
        and method.auto(method.resolve(method.validate(choice.parameters), False)) is None
    ):
        raise MethodError(
            f"{choice.name} has no rule for its scale",
            got="scale: auto",
            hint="write a number, or leave it out for the published one",
        )


def method_of(choice: MethodChoice) -> Method:
    """The method of a recipe with its modifiers.

    Raises:
        MethodError: the method, a modifier or a modifier's parameter is unknown or can't be.
    """
    return get(choice.name, [modifier_use(each.name, each.parameters) for each in choice.modifiers])


def _check_modified(method: Method, parameters: Parameters) -> None:
    streaming = method.streaming(parameters)
    if streaming is not None and streaming.survey is not None and streaming.scope == "model":
        raise MethodError(
            f"{method.name} looks at the whole model before it merges, and modifiers work matrix by matrix",
            where="method",
            got=", ".join(f"{key}: {value}" for key, value in parameters.items()),
            hint="write trim: tensor" if "trim" in parameters else "leave the modifiers out",
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


def _check_side_files(recipe: Recipe, names: list[str]) -> None:
    donor = recipe.side_files.donor
    if donor not in (BASE, *names) and not Path(donor).is_dir():
        raise RecipeError(
            f"no model called {donor!r} to take side files from",
            where="side_files.from",
            expected="base, the name of an expert, or a folder",
            hint=did_you_mean(donor, [BASE, *names]),
        )


def _check_output(recipe: Recipe) -> None:
    output = recipe.output
    if recipe.vocabulary.tokens != "strict" and recipe.side_files.donor != BASE:
        raise RecipeError(
            f"the vocabulary is the base's, as vocabulary: {recipe.vocabulary.tokens} makes it",
            where="side_files.from",
            got=recipe.side_files.donor,
            expected=BASE,
            hint="leave side_files out, and copy what you need of the expert's files after the merge",
        )
    if recipe.vocabulary.tokens == "union" and output.format == "adapter":
        raise RecipeError(
            "an adapter can't hold rows that the base lacks",
            where="output",
            hint="write output: dense, or vocabulary: base",
        )
    if output.rank is not None and output.format != "adapter":
        raise RecipeError(
            "a rank needs an adapter",
            where="output.rank",
            hint="write output: {format: adapter, rank: …}",
        )
    for key, value in (("budget", output.budget), ("threshold", output.threshold)):
        if value is not None and output.format != "routed":
            raise RecipeError(
                f"a {key} needs a routed output",
                where=f"output.{key}",
                hint=f"write output: {{format: routed, {key}: {value:g}}}",
            )
    if output.format == "routed":
        _check_routed(recipe)
    if output.shard_size is not None:
        parse_bytes(output.shard_size, "output.shard_size")


def _check_routed(recipe: Recipe) -> None:
    """Refuses experts among which there is nothing to choose, and names that can't be folders."""
    if len(recipe.experts) < 2:
        raise RecipeError(
            "there is nothing to route between",
            where="output",
            got="one expert",
            expected="at least two experts",
            hint="write output: dense",
        )
    for name in recipe.expert_names():
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise RecipeError(
                "an expert's name can't be the name of a folder",
                where="experts",
                got=name,
                expected="letters, digits, '_', '-' and '.'",
                hint="give the expert another name: {model: PATH, name: NAME}",
            )


def check_device(device: str) -> None:
    """Refuses a device that isn't there.

    Raises:
        RecipeError: with what there is.
    """
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdecimal()):
        raise RecipeError("unknown device", where="--device", got=device, expected="cpu or cuda")
    if kind == "cuda" and not torch.cuda.is_available():
        raise RecipeError(
            "no CUDA device is available", where="--device", got=device, hint="use --device cpu"
        )
    there = torch.cuda.device_count() if kind == "cuda" else 1
    if index and int(index) >= there:
        expected = f"{kind}:0 to {kind}:{there - 1}" if there > 1 else kind
        raise RecipeError("no such device", where="--device", got=device, expected=expected)


_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}


def parse_bytes(text: str | int, where: str) -> int:
    """A number of bytes from `5GB`, `2GiB`, `500MB` or a plain number.

    Raises:
        RecipeError: not a positive size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(text).lower())
    unit = _UNITS.get(found[2]) if found else None
    size = float(found[1]) * unit if found and unit else 0.0
    if not 1 <= size < 2**63:
        raise RecipeError("not a size in bytes", where=where, got=text, expected="such as 2GiB or 500MB")
    return int(size)
