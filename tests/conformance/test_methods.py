"""What every registered method promises the engine and its users, plug-ins included."""

from __future__ import annotations

import ast
import inspect
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from perf.workspace import SHAPES, cases, measured
from torch import Tensor

from optmerge.deltas import Delta, Dense, LowRank, linear_combination, mean
from optmerge.errors import MergeWarning, MethodError
from optmerge.methods import Case, Context, Layout, Method, apply, get, merge_deltas, method, registered
from optmerge.methods import _registry as registry
from worlds.methods import out_of_domain, own_registry

METHODS = registered()
MATRIX = [name for name, each in METHODS.items() if each.granularity == "matrix"]
every_method = pytest.mark.parametrize("name", METHODS)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MergeWarning)
        yield


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def merge(name: str, deltas: Any, **more: Any) -> Any:
    """Few steps, since where they end isn't tested here; one variant for factors and dense alike."""
    known = METHODS[name].parameters.model_fields
    chosen = {key: value for key, value in {"steps": 3, "variant": "lora"}.items() if key in known}
    return merge_deltas(name, deltas, **chosen, **more)


@every_method
def test_a_docstring_says_what_it_is_and_where_it_comes_from(name: str) -> None:
    text = inspect.getdoc(METHODS[name].function) or ""
    assert METHODS[name].summary.endswith(".")
    assert "\nSource: " in text
    for parameter in METHODS[name].parameters.model_fields:
        assert f"\n    {parameter}: " in text, parameter


@every_method
def test_a_method_lives_in_a_file_of_its_own_name_or_family(name: str) -> None:
    module = Path(inspect.getfile(METHODS[name].function)).stem
    assert name == module or name.startswith(f"{module}_")


@every_method
def test_an_unknown_parameter_is_refused(name: str) -> None:
    with pytest.raises(MethodError, match="has no parameter 'colour'"):
        merge_deltas(name, random(2, 3, 4), colour="red")


@every_method
def test_a_misspelt_parameter_is_recognised(name: str) -> None:
    for parameter in METHODS[name].parameters.model_fields:
        with pytest.raises(MethodError, match=f"did you mean '{parameter}'"):
            METHODS[name].validate({f"{parameter}s": 1})


@every_method
def test_a_value_out_of_its_domain_is_refused(name: str) -> None:
    for parameter in METHODS[name].parameters.model_fields:
        for bad in out_of_domain(METHODS[name], parameter):
            with pytest.raises(MethodError, match="out of its domain") as caught:
                METHODS[name].validate({parameter: bad})
            assert parameter in str(caught.value)


@every_method
def test_defaults_are_valid_and_resolve_to_values_that_are(name: str) -> None:
    each = METHODS[name]
    for low_rank in (True, False):
        resolved = each.resolve(each.validate({}), low_rank)
        assert each.resolve(each.validate(resolved), low_rank) == resolved
        assert "auto" not in resolved.values()
        assert each.scale(resolved) > 0


@every_method
def test_costs_are_positive_and_grow(name: str) -> None:
    each = METHODS[name]
    parameters = each.resolve(each.validate({}), False)
    small, large = Case(2, 8, 16, parameters), Case(4, 16, 32, parameters)
    assert 0 < each.resources.work(small) <= each.resources.work(large)
    few, many = Case(2, 64, 64, parameters), Case(8, 64, 64, parameters)
    assert 0 < each.resources.workspace(few) <= each.resources.workspace(many)


@every_method
def test_a_survey_makes_as_many_passes_as_are_declared(name: str) -> None:
    each = METHODS[name]
    streaming = each.streaming(each.resolve(each.validate({}), False))
    if streaming is None or streaming.survey is None:
        assert streaming is None or streaming.passes == 0
        return
    count = each.exactly or 3
    survey, passes = streaming.survey(count), 0
    while survey.begin_pass():
        survey.observe([Dense(delta) for delta in random(count, 5, 4).float()], Context())
        survey.end_pass()
        passes += 1
    assert passes == streaming.passes


@every_method
def test_a_method_that_streams_gives_slices_of_what_it_gives_the_whole(name: str) -> None:
    each = METHODS[name]
    parameters = each.resolve(each.validate({}), False)
    streaming = each.streaming(parameters)
    if streaming is None:
        return
    assert each.granularity != "matrix"
    count = each.exactly or 3
    deltas, context = random(count, 6, 4).float(), Context(tensor="w")
    if streaming.survey is not None:
        survey = streaming.survey(count)
        while survey.begin_pass():
            for start in (0, 2, 4):
                slices = [Dense(delta) for delta in deltas[:, start : start + 2]]
                survey.observe(slices, replace(context, start=4 * start))
            survey.end_pass()
        context = replace(context, survey=survey.result())
    parts = [
        apply(
            each, [Dense(d) for d in deltas[:, s : s + 2]], parameters, replace(context, start=4 * s)
        ).dense()
        for s in (0, 2, 4)
    ]
    assert torch.equal(torch.cat(parts), merge_deltas(name, deltas, context=Context(tensor="w")))


@every_method
def test_a_method_keeps_factors_where_it_says_so(name: str) -> None:
    each = METHODS[name]
    parameters = each.resolve(each.validate({}), True)
    if not each.resources.keeps_factors(parameters):
        return
    ups, downs = random(3, 9, 2).unbind(), random(3, 2, 8).unbind()
    deltas = [LowRank(up, down) for up, down in zip(ups, downs, strict=True)]
    assert isinstance(apply(each, deltas, parameters, Context()), LowRank)


@every_method
def test_tensors_give_tensors_and_deltas_give_deltas(name: str) -> None:
    deltas = random(2, 5, 4)
    given: list[Any] = [deltas, list(deltas), [Dense(delta) for delta in deltas]]
    merged = [merge(name, each) for each in given]
    assert isinstance(merged[0], Tensor)
    assert isinstance(merged[1], Tensor)
    assert isinstance(merged[2], Dense | LowRank)
    assert torch.equal(merged[0], merged[1])
    assert torch.equal(merged[0], merged[2].dense())


@every_method
def test_both_float_types_come_back_as_they_went_in(name: str) -> None:
    for dtype in (torch.float32, torch.float64):
        assert merge(name, random(2, 5, 4).to(dtype)).dtype == dtype
    assert merge(name, random(2, 5, 4).to(torch.bfloat16)).dtype == torch.float32


@every_method
def test_a_weight_multiplies_its_delta(name: str) -> None:
    deltas, weights = random(2, 5, 4), [0.5, 3.0]
    scale = sum(weights) / 2 if METHODS[name].affine else 1.0
    scaled = torch.stack([delta * (w / scale) for delta, w in zip(deltas, weights, strict=True)])
    torch.testing.assert_close(merge(name, deltas, weights=weights), merge(name, scaled))
    assert torch.equal(merge(name, deltas, weights=[1.0, 1.0]), merge(name, deltas))


def test_an_average_is_the_same_for_proportional_weights() -> None:
    deltas = random(3, 5, 4)
    expected = (1 * deltas[0] + 2 * deltas[1] + 5 * deltas[2]) / 8
    for factor in (1, 0.1, -7):
        weights = [1.0 * factor, 2.0 * factor, 5.0 * factor]
        torch.testing.assert_close(merge("average", deltas, weights=weights), expected)


@every_method
def test_what_does_not_fit_together_is_refused(name: str) -> None:
    for bad, words in [
        ([], "no deltas"),
        ([torch.ones(2, 3), torch.ones(3, 2)], "different shapes"),
        ([torch.ones(2, 3), torch.full((2, 3), float("nan"))], "NaN"),
    ]:
        with pytest.raises(MethodError, match=words):
            merge(name, bad)
    with pytest.raises(MethodError, match="one weight per expert"):
        merge(name, random(2, 3, 4), weights=[1.0])


@every_method
def test_vectors_and_scalars_merge_to_their_shape(name: str) -> None:
    for shape in [(7,), (1,), ()]:
        assert merge(name, random(2, *shape)).shape == shape


@pytest.mark.parametrize("name", MATRIX)
def test_vectors_get_the_mean_delta_from_a_matrix_method(name: str) -> None:
    vectors, matrices = random(3, 7), random(3, 4, 5)
    assert torch.equal(merge(name, vectors), merge("average", vectors))
    as_vector = merge(name, matrices, context=Context(layout="vector"))
    assert torch.equal(as_vector, merge("average", matrices))


@pytest.mark.parametrize("name", MATRIX)
def test_every_layout_merges_the_matrices_it_holds(name: str) -> None:
    def laid_out(layout: Layout | None, deltas: Tensor) -> Tensor:
        found: Tensor = merge(name, deltas, context=Context(layout=layout))
        return found

    matrices = random(3, 6, 4)
    expected = laid_out("matrix", matrices)
    assert torch.equal(laid_out(None, matrices), expected)
    torch.testing.assert_close(laid_out("transposed", matrices.mT), expected.mT)

    stacks = random(3, 2, 6, 4)
    each = torch.stack([laid_out("matrix", stacks[:, index]) for index in range(2)])
    assert torch.equal(laid_out("stack", stacks), each)
    assert torch.equal(laid_out(None, stacks), each)
    torch.testing.assert_close(laid_out("transposed_stack", stacks.mT), each.mT)

    kernels = random(3, 6, 2, 2, 1)
    flat = laid_out("matrix", kernels.flatten(2)).reshape(6, 2, 2, 1)
    assert torch.equal(laid_out("flatten", kernels), flat)
    assert torch.equal(laid_out(None, kernels), flat)


@pytest.mark.parametrize("name", MATRIX)
def test_every_layout_takes_factors_too(name: str) -> None:
    def delta(seed: int) -> LowRank:
        return LowRank(random(6, 2, seed=seed), random(2, 8, seed=seed + 1))

    deltas = [delta(1), delta(5), delta(9)]  # 3·2 ≥ ⌊6/3⌋ each: enough for TSV
    plain = merge(name, deltas)
    flipped = [LowRank(each.down.T, each.up.T) for each in deltas]
    turned = merge(name, flipped, context=Context(layout="transposed"))
    torch.testing.assert_close(turned.dense().T, plain.dense(), rtol=1e-6, atol=1e-6)
    kernels = [LowRank(each.up, each.down, (6, 2, 2, 2)) for each in deltas]
    kernel = merge(name, kernels)
    assert kernel.shape == (6, 2, 2, 2)
    assert torch.equal(kernel.dense().flatten(1), plain.dense())
    stacks = [LowRank(each.up, each.down, (6, 2, 4)) for each in deltas]
    dense = torch.stack([stack.dense() for stack in stacks])
    torch.testing.assert_close(merge(name, stacks).dense(), merge(name, dense))


@every_method
def test_the_number_of_experts_is_checked(name: str) -> None:
    exactly = METHODS[name].exactly
    for count in (1, 2, 3):
        if exactly in (None, count):
            assert torch.isfinite(merge(name, random(count, 5, 4))).all()
        else:
            with pytest.raises(MethodError, match=f"merges exactly {exactly} experts"):
                merge(name, random(count, 5, 4))


@every_method
@pytest.mark.parametrize("shape", SHAPES)
def test_a_method_holds_no_more_memory_than_it_declares(name: str, shape: tuple[int, int]) -> None:
    for case in cases(METHODS[name], [shape]):
        held, declared = measured(METHODS[name], case), METHODS[name].resources.workspace(case)
        assert held <= declared, (
            f"{name} holds {held:.1f} arrays of the tensor's size for {case.experts} experts and declares "
            f"{declared:.1f}; `python -m perf.workspace {name}` shows what to declare"
        )


@pytest.mark.parametrize("name", [name for name, each in METHODS.items() if each.affine])
def test_an_affine_method_may_be_given_weights_for_deltas(name: str) -> None:
    base, deltas = random(5, 4, seed=1), random(3, 5, 4)
    torch.testing.assert_close(merge(name, deltas + base), base + merge(name, deltas))


def test_an_unknown_method_is_answered_with_the_closest() -> None:
    with pytest.raises(MethodError, match="did you mean 'optmerge'"):
        get("optmrge")


def test_methods_import_nothing_of_each_others_internals() -> None:
    folder = Path(inspect.getfile(registry)).parent
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert not any(alias.name.startswith("_") for alias in node.names), path.name


@pytest.fixture
def fresh_registry() -> Iterator[None]:
    """What a test registers is forgotten after it."""
    with own_registry():
        yield


@pytest.mark.usefixtures("fresh_registry")
def test_a_decorated_function_is_a_method() -> None:
    @method(granularity="element", scale=0.5)
    def halves(deltas: Sequence[Delta], *, part: float = 0.5) -> Delta:
        """Part of the sum.

        Source: this test.
        """
        return linear_combination(deltas, [part] * len(deltas))

    deltas = random(2, 3, 4)
    assert registered()["halves"].summary == "Part of the sum."
    torch.testing.assert_close(merge_deltas("halves", deltas), deltas.mean(0))
    torch.testing.assert_close(merge_deltas("halves", deltas, part=1), deltas.sum(0))
    with pytest.raises(MethodError, match="did you mean 'part'"):
        merge_deltas("halves", deltas, parts=1)


@pytest.mark.usefixtures("fresh_registry")
def test_a_function_may_return_a_plain_tensor() -> None:
    @method(granularity="matrix", scale=1.0)
    def summed(deltas: Sequence[Delta]) -> Tensor:
        return torch.stack([delta.dense() for delta in deltas]).sum(0)

    for shape in [(4,), (4, 5), (2, 4, 5), (4, 5, 1, 2)]:
        deltas = random(2, *shape)
        expected = deltas.mean(0) if len(shape) == 1 else deltas.sum(0)
        torch.testing.assert_close(merge_deltas("summed", deltas), expected)
        merged = merge_deltas("summed", [Dense(delta) for delta in deltas])
        assert isinstance(merged, Dense)
        torch.testing.assert_close(merged.dense(), expected)


@pytest.mark.usefixtures("fresh_registry")
def test_a_function_that_returns_something_else_is_refused_by_name() -> None:
    @method(granularity="element", scale=1.0)
    def listing(deltas: Sequence[Delta]) -> Any:
        return [delta.dense() for delta in deltas]

    for given in (random(2, 3, 4), [Dense(delta) for delta in random(2, 3, 4)]):
        with pytest.raises(MethodError, match="listing returned list, expected Delta or Tensor"):
            merge_deltas("listing", given)


@pytest.mark.usefixtures("fresh_registry")
def test_a_plug_in_cannot_replace_a_method() -> None:
    def average(deltas: Sequence[Delta]) -> Delta:
        return mean(deltas)

    with pytest.raises(MethodError, match="there already is a method 'average'"):
        method(granularity="element", scale=1.0)(average)
    assert isinstance(get("average"), Method)
    assert get("average").function is not average


PLUGIN = """
from optmerge.deltas import linear_combination
from optmerge.methods import method

@method(granularity="element", scale=1.0)
def first_only(deltas):
    "The first expert.\\n\\nSource: a plug-in."
    return linear_combination(deltas[:1], [1.0])
"""


def outsider(module: str) -> EntryPoint:
    return EntryPoint(name="outsider", value=module, group="optmerge.methods")


def test_an_entry_point_adds_a_method(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "outsider_of_optmerge.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    deltas = random(2, 3, 4)
    with own_registry([outsider("outsider_of_optmerge")]):
        assert "first_only" in registered()
        assert torch.equal(merge_deltas("first_only", deltas), deltas[0])
    assert "first_only" not in registered()


@pytest.mark.parametrize("fault", ["no_such_module_anywhere", "broken_outsider"])
def test_an_entry_point_that_cannot_be_loaded_is_named(
    fault: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "broken_outsider.py").write_text("raise RuntimeError('of no use')")
    monkeypatch.syspath_prepend(tmp_path)
    with own_registry([outsider(fault)]), pytest.raises(MethodError, match="plug-in 'outsider'"):
        get("average")
