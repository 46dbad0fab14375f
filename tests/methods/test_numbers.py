"""Numerical traps: each of these was once wrong, or would be in the obvious implementation."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import Tensor

from optmerge.deltas import Dense, LowRank
from optmerge.errors import MethodError
from optmerge.methods import Context, apply, get, merge_deltas
from optmerge.methods._fast.radix import kth_smallest_index
from optmerge.methods._solvers.linalg import top_rank
from optmerge.methods.optmerge import optmerge
from optmerge.methods.ties import TrimSurvey


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_fractions_mean_what_their_decimals_say() -> None:
    for percent in range(1, 101):
        for size in (1, 7, 10, 100, 1000):
            exact = Fraction(percent, 100)
            assert kth_smallest_index(percent / 100, size) == int((1 - exact) * size)
            assert top_rank((size, size), percent / 100, 1) == max(1, int(exact * size))


def test_factors_with_a_tiny_direction_keep_it_in_tsv() -> None:
    """Its singular vectors bend the others', however small its singular value."""
    left, right = torch.linalg.qr(randn(12, 2, seed=1))[0], torch.linalg.qr(randn(4, 2, seed=2))[0]
    tiny = LowRank(left * torch.tensor([1.0, 1e-9], dtype=torch.float64), right.T)
    other = LowRank(randn(12, 2, seed=3), randn(2, 4, seed=4))
    merged = merge_deltas("tsv", [tiny, other])
    dense = merge_deltas("tsv", [tiny.dense(), other.dense()])
    torch.testing.assert_close(merged.dense(), dense, atol=1e-6, rtol=1e-6)


def test_optmerge_called_by_itself_knows_low_rank_deltas() -> None:
    deltas = [LowRank(randn(8, 1, seed=i), randn(1, 9, seed=i + 9)) for i in range(2)]
    torch.testing.assert_close(optmerge(deltas).dense(), merge_deltas("optmerge", deltas).dense())


def test_steps_that_diverge_are_refused_by_every_solver() -> None:
    deltas = randn(2, 6, 5)
    for solver in ("closed_form", "gram", "iterate"):
        with pytest.raises(MethodError, match="diverge"):
            merge_deltas("optmerge", deltas, variant="lora", lr=1e4, solver=solver)


@pytest.mark.parametrize("name", ["tsv", "iso_c", "wudi", "optmerge", "swudi", "aswudi", "average", "ties"])
@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 3, 4), (0,)])
def test_a_tensor_without_entries_merges_to_itself(name: str, shape: tuple[int, ...]) -> None:
    assert merge_deltas(name, torch.zeros(2, *shape)).shape == shape


@pytest.mark.parametrize("name", ["average", "ties", "tsv", "wudi", "swudi", "optmerge", "slerp"])
def test_deltas_of_different_types_merge_in_the_wider(name: str) -> None:
    wide = LowRank(randn(6, 1, seed=1), randn(1, 5, seed=2))
    narrow = randn(6, 5, seed=3, dtype=torch.float32)
    for deltas in ([Dense(narrow), wide], [wide, Dense(narrow)]):
        assert merge_deltas(name, deltas).dtype == torch.float64


@pytest.mark.parametrize("weights", [[1.0, -1.0], [0.1, 0.2, -0.3], [0.0, 0.0]])
def test_weights_of_an_average_that_cancel_are_refused(weights: list[float]) -> None:
    with pytest.raises(MethodError, match="sum to zero"):
        merge_deltas("average", torch.ones(len(weights), 2), weights=weights)


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(weight: float) -> None:
    with pytest.raises(MethodError, match="weight"):
        merge_deltas("task_arithmetic", torch.ones(2, 2), weights=[1.0, weight])


def test_a_tensor_without_an_expert_axis_is_refused() -> None:
    with pytest.raises(MethodError, match="axis"):
        merge_deltas("average", torch.tensor(1.0))


def test_a_layout_that_does_not_fit_the_tensor_is_refused() -> None:
    for layout, shape in [("transposed", (2, 3, 4)), ("matrix", (2, 3, 4)), ("stack", (3, 4))]:
        with pytest.raises(MethodError, match="layout"):
            merge_deltas("wudi", torch.ones(2, *shape), context=Context(layout=layout))


def test_model_wise_ties_without_a_survey_is_refused() -> None:
    ties = get("ties")
    with pytest.raises(MethodError, match="survey"):
        apply(ties, [Dense(torch.ones(2, 2))], ties.validate({"trim": "model"}), Context())


def test_a_survey_announces_no_pass_it_does_not_make() -> None:
    ties = get("ties")
    for keep in (0.2, 1.0):
        survey = TrimSurvey(2, keep)
        passes = 0
        while survey.begin_pass():
            survey.observe([Dense(randn(5, 5, dtype=torch.float32))] * 2, Context())
            survey.end_pass()
            passes += 1
        assert passes == ties.streaming(ties.validate({"trim": "model", "keep": keep})).passes


def test_every_solver_stays_finite_at_the_extremes_of_float32() -> None:
    for size in (1e-30, 1e-12, 1e12):
        deltas = randn(3, 6, 5, dtype=torch.float32) * size
        for name in ("tsv", "swudi", "aswudi", "optmerge", "wudi", "iso_c", "ties", "average"):
            assert torch.isfinite(merge_deltas(name, deltas)).all(), (name, size)
        for name in ("tsv", "iso_c", "swudi", "aswudi"):
            unit = merge_deltas(name, randn(3, 6, 5, dtype=torch.float32))
            torch.testing.assert_close(merge_deltas(name, deltas) / size, unit, rtol=1e-4, atol=1e-4)


def test_an_unknown_rank_rule_is_answered_with_the_closest() -> None:
    for bad in ("partition_sqrt", "cumvar_2", "cumvar_"):
        with pytest.raises(MethodError, match="out of its domain") as caught:
            get("aswudi").validate({"rank_rule": bad})
        assert "rank_rule" in str(caught.value) and "did you mean" in str(caught.value)
