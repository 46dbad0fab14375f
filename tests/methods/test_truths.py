"""What must be true of the methods whatever the deltas, without any reference."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from optmerge import methods
from optmerge.deltas import Delta, Dense, LowRank
from optmerge.errors import MergeWarning
from optmerge.methods import Context, iso_c, merge_deltas, registered
from worlds.deltas import (
    SHAPES,
    dense_deltas,
    factors,
    low_rank_deltas,
    materialised,
    orthogonal,
    randn,
    relative,
)
from worlds.methods import EVERY_METHOD, FACTORED, fits

OF_DIRECTIONS = ("iso_c", "iso_cts", "tsv", "dc_merge")
"""Methods whose result depends on how many directions a delta has, null ones included where it is dense."""

light = settings(max_examples=20, deadline=None)
every_method = pytest.mark.parametrize("entry", EVERY_METHOD)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Iso-C warns of rank-deficient sums, which these tests are full of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MergeWarning)
        yield


def merge(entry: str, deltas: Any, **more: Any) -> Any:
    return merge_deltas(entry.split()[0], deltas, **EVERY_METHOD[entry], **more)


def size_of(deltas: Tensor) -> float:
    return max(float(delta.norm()) for delta in deltas)


def test_every_method_of_this_package_is_held_to_these_truths() -> None:
    files = {path.stem for path in Path(methods.__file__).parent.glob("[!_]*.py")}
    modules = {registered()[entry.split()[0]].function.__module__ for entry in EVERY_METHOD}
    assert modules == {f"optmerge.methods.{file}" for file in files}
    assert {entry.split()[0] for entry in EVERY_METHOD} == {
        name for name, method in registered().items() if method.function.__module__.startswith("optmerge.")
    }


@every_method
@light
@given(deltas=dense_deltas(least=2, most=2) | dense_deltas())
def test_results_are_finite_repeatable_and_leave_the_deltas_alone(entry: str, deltas: Tensor) -> None:
    assume(fits(entry, len(deltas)))
    before = deltas.clone()
    merged = merge(entry, deltas)
    assert merged.shape == deltas.shape[1:]
    assert merged.dtype == deltas.dtype
    assert torch.isfinite(merged).all()
    assert torch.equal(deltas, before)
    merged.clone().zero_()
    assert torch.equal(merge(entry, deltas), merged)


@every_method
def test_deltas_that_are_all_zero_merge_to_zero(entry: str) -> None:
    for shape in SHAPES:
        assert not merge(entry, torch.zeros(2, *shape)).any()
        zeros: list[Delta] = [LowRank(torch.zeros(shape[0], 1), torch.zeros(1, shape[1]))] * 2
        assert not merge(entry, zeros).dense().any()
        nothing: list[Delta] = [factors(*shape, 0, seed=0)] * 2
        assert not merge(entry, nothing).dense().any()


@pytest.mark.parametrize("entry", ["average", "task_arithmetic", "wudi exact", "iso_c of one", "tsv"])
@light
@given(deltas=dense_deltas(most=1))
def test_one_expert_is_given_back(entry: str, deltas: Tensor) -> None:
    if entry == "iso_c of one":  # only its directions are: its spectrum is flat
        merged, delta = merge_deltas("iso_c", deltas), deltas[0]
        mean = torch.linalg.svdvals(delta).mean()
        torch.testing.assert_close(torch.linalg.svdvals(merged), mean.expand(min(delta.shape)).clone())
        return
    assert relative(merge(entry, deltas), deltas[0]) < 1e-6  # TSV: k = min(m, n), all of it


@pytest.mark.parametrize("entry", ["average", "ties", "wudi exact", "slerp"])
@light
@given(deltas=dense_deltas(most=1), count=st.integers(2, 4))
def test_identical_experts_give_their_common_delta(entry: str, deltas: Tensor, count: int) -> None:
    count = 2 if entry == "slerp" else count
    keep_all = {"keep": 1.0} if entry == "ties" else {}
    same = [deltas[0]] * count
    merged = merge_deltas(entry.split()[0], same, **{**EVERY_METHOD[entry], **keep_all})
    # the exact minimiser takes directions below √1e-10 of the largest for null, and stays at N·τ there
    assert relative(merged, deltas[0]) < (1e-4 if entry == "wudi exact" else 1e-8)


@light
@given(st.sampled_from(SHAPES), st.integers(2, 4), st.integers(0, 999))
def test_tsv_of_identical_experts_is_their_best_approximation(
    shape: tuple[int, int], count: int, seed: int
) -> None:
    delta = randn(*shape, seed=seed)
    k = max(1, min(shape) // count)
    left, values, right = torch.linalg.svd(delta, full_matrices=False)
    best = (left[:, :k] * values[:k]) @ right[:k]
    assert relative(merge_deltas("tsv", [delta] * count), best) < 1e-6


@every_method
@light
@given(deltas=dense_deltas(least=2, most=2) | dense_deltas(least=2), data=st.data())
def test_the_order_of_the_experts_does_not_matter(entry: str, deltas: Tensor, data: st.DataObject) -> None:
    assume(fits(entry, len(deltas)))
    if entry in OF_DIRECTIONS:  # arbitrary null directions are as arbitrary as the rounding
        deltas = randn(*deltas.shape, seed=1)
    if "ties" in entry:  # integers, since a sum of real numbers that cancels has the sign of its rounding
        deltas = torch.round(deltas * 8)
        drop = {"drop": 0.5} if entry == "dare_ties" else {}
    else:
        drop = {}
    assume(adam_is_stable(entry, [float(delta.norm()) for delta in deltas]))
    order = data.draw(st.permutations(range(len(deltas))))
    names = tuple(f"expert {index}" for index in range(len(deltas)))
    shuffled = Context(tensor="w", experts=tuple(names[index] for index in order))
    parameters = {**EVERY_METHOD[entry], **drop}
    swapped = parameters | ({"t": 0.7} if entry == "slerp" and order == [1, 0] else {})
    name = entry.split()[0]
    one = merge_deltas(name, deltas, context=Context(tensor="w", experts=names), **parameters)
    other = merge_deltas(name, deltas[order], context=shuffled, **swapped)
    assert relative(other, one, scale=size_of(deltas) or 1) < 1e-6


def adam_is_stable(entry: str, norms: list[float]) -> bool:
    """A single term starts at its minimum, where Adam makes steps out of the rounding of the gradient."""
    return entry not in ("wudi", "optmerge full") or sum(norm > 0 for norm in norms) > 1


@pytest.mark.parametrize("name", [name for name, m in registered().items() if m.granularity == "element"])
@light
@given(deltas=dense_deltas(), cut=st.integers(0, 12))
def test_elementwise_methods_commute_with_slicing(name: str, deltas: Tensor, cut: int) -> None:
    _, m, n = deltas.shape
    cut = min(cut, m)
    whole = merge_deltas(name, deltas, context=Context(tensor="w"))
    top = merge_deltas(name, deltas[:, :cut], context=Context(tensor="w"))
    rest = merge_deltas(name, deltas[:, cut:], context=Context(tensor="w", start=cut * n))
    assert torch.equal(torch.cat([top, rest]), whole)


ROTATING = ["tsv", "iso_c", "wudi exact", "optmerge solved", "optmerge lora", "swudi", "aswudi"]
ROTATING += ["optmerge full closed_form", "actmat", "ace_ridge", "iso_cts", "cart", "dc_merge"]


@pytest.mark.parametrize("entry", ROTATING)
@pytest.mark.parametrize("side", ["outputs", "inputs"])
@light
@given(shape=st.sampled_from(SHAPES), count=st.integers(1, 4), seed=st.integers(0, 999))
def test_solvers_commute_with_orthogonal_changes_of_basis(
    entry: str, side: str, shape: tuple[int, int], count: int, seed: int
) -> None:
    deltas = randn(count, *shape, seed=seed)
    m, n = shape
    U = orthogonal(m, seed + 1) if side == "outputs" else torch.eye(m, dtype=torch.float64)
    V = orthogonal(n, seed + 2) if side == "inputs" else torch.eye(n, dtype=torch.float64)
    assume(well_conditioned(entry, deltas))
    assert relative(merge(entry, U @ deltas @ V.T), U @ merge(entry, deltas) @ V.T) < 1e-6


def well_conditioned(entry: str, deltas: Tensor) -> bool:
    """Singular values far enough from each other, and from zero, for truncation to be well defined."""
    if not entry.startswith(("tsv", "optmerge", "iso_c", "cart", "dc_merge")):
        return True
    parts = [*deltas, *(deltas - deltas.mean(0)), deltas.sum(0)] if len(deltas) > 1 else [*deltas]
    spectra = [torch.linalg.svdvals(part) for part in parts]
    return all(bool((-s.diff() > 1e-3).all()) and float(s[-1]) > 1e-3 for s in spectra)


@every_method
@light
@given(deltas=low_rank_deltas(least=2, most=2) | low_rank_deltas())
def test_factors_give_what_their_products_give(entry: str, deltas: list[LowRank]) -> None:
    assume(fits(entry, len(deltas)))
    if entry in OF_DIRECTIONS:
        return  # tsv and iso_c below: only the real directions agree; the others count ranks, not sides
    scale = max(math.sqrt(delta.squared_norm()) for delta in deltas) or 1
    assume("optmerge" not in entry or distinct_spectra(deltas))
    assume(adam_is_stable(entry, [delta.squared_norm() for delta in deltas]))
    expected = merge(entry, materialised(deltas)).dense()
    assert relative(merge(entry, deltas).dense(), expected, scale) < 1e-6
    mixed = [Dense(delta.dense()) if index % 2 else delta for index, delta in enumerate(deltas)]
    assert relative(merge(entry, mixed).dense(), expected, scale) < 1e-6


def distinct_spectra(deltas: list[LowRank]) -> bool:
    dense = torch.stack([delta.dense() for delta in deltas])
    spectra = [torch.linalg.svdvals(part) for part in [*dense, *(dense - dense.mean(0))]]
    return all(bool(((-s.diff() > 1e-3) | (s[1:] < 1e-9)).all()) for s in spectra)


@light
@given(shape=st.sampled_from(SHAPES), count=st.integers(1, 4), seed=st.integers(0, 999))
def test_tsv_of_factors_of_sufficient_rank_is_that_of_their_products(
    shape: tuple[int, int], count: int, seed: int
) -> None:
    k = max(1, min(shape) // count)
    deltas = [factors(*shape, k, seed=seed + 10 * index) for index in range(count)]
    assume(distinct_spectra(deltas))
    assume(min(float(torch.linalg.svdvals(delta.dense())[k - 1]) for delta in deltas) > 1e-3)
    merged = merge_deltas("tsv", deltas)
    assert relative(merged.dense(), merge_deltas("tsv", materialised(deltas)).dense()) < 1e-6


def test_tsv_of_factors_leaves_out_the_arbitrary_directions() -> None:
    """A dense rank-deficient delta contributes k directions, the null ones made of rounding noise."""
    deltas = [factors(12, 9, 1, seed=index) for index in (1, 5)]  # k = 4, rank 1
    assert torch.linalg.matrix_rank(merge_deltas("tsv", deltas).dense()) == 2


def test_iso_c_of_factors_agrees_on_the_directions_that_the_sum_has() -> None:
    deltas = [factors(12, 9, 1, seed=index) for index in (1, 5)]
    total = deltas[0].dense() + deltas[1].dense()
    left, values, right = torch.linalg.svd(total)
    with warnings.catch_warnings():
        warnings.simplefilter("error", MergeWarning)
        with pytest.raises(MergeWarning, match="7 of its 9 directions"):
            merge_deltas("iso_c", deltas)
    for given_as in (deltas, materialised(deltas)):
        merged = merge_deltas("iso_c", given_as).dense()
        core = left[:, :2].T @ merged @ right[:2].T
        torch.testing.assert_close(core, values.mean() * torch.eye(2, dtype=torch.float64))
        torch.testing.assert_close(torch.linalg.svdvals(merged), values.mean().expand(9).clone())


def test_iso_c_of_a_large_wide_matrix_is_that_of_its_transpose(monkeypatch: pytest.MonkeyPatch) -> None:
    deltas = randn(3, 9, 14, seed=1)
    before = merge_deltas("iso_c", deltas)
    monkeypatch.setattr(iso_c, "SMALL_SIDE", 8)
    merged = merge_deltas("iso_c", deltas)
    assert relative(merged, before) < 1e-12
    assert relative(merged, merge_deltas("iso_c", deltas.mT).T) < 1e-12


@pytest.mark.parametrize("entry", FACTORED)
@pytest.mark.parametrize("full_shape", [None, (12, 3, 2, 2)])
def test_low_rank_deltas_stay_factors(entry: str, full_shape: tuple[int, ...] | None) -> None:
    deltas = [factors(12, 12, 2, seed=index, full_shape=full_shape) for index in (1, 5)]
    merged = merge(entry, deltas)
    assert isinstance(merged, LowRank)
    assert merged.rank <= 4
    assert merged.shape == (full_shape or (12, 12))
    plain = merge(entry, [LowRank(delta.up, delta.down) for delta in deltas])
    assert torch.equal(merged.dense().flatten(), plain.dense().flatten())


@pytest.mark.parametrize("t", [0.0, 1.0])
@light
@given(deltas=dense_deltas(least=2, most=2))
def test_slerp_ends_at_its_experts(t: float, deltas: Tensor) -> None:
    assert torch.equal(merge_deltas("slerp", deltas, t=t), deltas[int(t)])


@given(st.floats(0, 1), st.integers(0, 99))
@light
def test_slerp_keeps_the_norm_of_orthogonal_unit_deltas(t: float, seed: int) -> None:
    directions = orthogonal(12, seed)[:2].reshape(2, 3, 4)
    merged = merge_deltas("slerp", directions, t=t)
    assert float(merged.norm()) == pytest.approx(1, abs=1e-9)
    assert float((merged * directions[0]).sum()) == pytest.approx(math.cos(t * math.pi / 2), abs=1e-9)


def test_slerp_of_colinear_opposite_or_zero_deltas_is_a_straight_line() -> None:
    delta = randn(3, 4, seed=0)
    for other in (2 * delta, -delta, torch.zeros_like(delta)):
        expected = 0.7 * delta + 0.3 * other
        torch.testing.assert_close(merge_deltas("slerp", [delta, other], t=0.3), expected)


@light
@given(deltas=dense_deltas(), percent=st.integers(1, 100))
def test_ties_is_its_definition(deltas: Tensor, percent: int) -> None:
    trimmed = []
    for delta in deltas:
        k = (100 - percent) * delta.numel() // 100
        least = delta.abs().flatten().kthvalue(k).values if k else 0.0
        trimmed.append(torch.where(delta.abs() >= least, delta, 0.0))
    stack = torch.stack(trimmed)
    sign = torch.sign(sum(trimmed[1:], trimmed[0]))
    sign[sign == 0] = torch.sign(sign.sum())
    agrees = (torch.sign(stack) == sign) & (stack != 0)
    expected = (stack * agrees).sum(0) / agrees.sum(0).clamp(min=1)
    torch.testing.assert_close(merge_deltas("ties", deltas, keep=percent / 100), expected)
