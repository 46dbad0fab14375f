"""Figures of one matrix: equal to their definitions where exact, within their stated error elsewhere."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from optmerge.analysis import matrices as module
from optmerge.analysis.matrices import MatrixFigures, measure_matrix
from optmerge.deltas import Dense, LowRank
from worlds.samples import examples

SIDES = st.integers(1, 12)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def decaying(m: int, n: int, seed: int) -> Tensor:
    """A matrix of singular values 1, 2^-½, 2^-1, …"""
    k = min(m, n)
    left = torch.linalg.qr(random(m, k, seed=seed).double()).Q
    right = torch.linalg.qr(random(n, k, seed=seed + 1000).double()).Q
    values: Tensor = torch.pow(2.0, -torch.arange(k) / 2)
    found: Tensor = (left * values) @ right.T
    return found.float()


def measured(deltas: list[Tensor], merged: Tensor) -> MatrixFigures:
    return measure_matrix([Dense(each) for each in deltas], Dense(merged), "name")


@given(SIDES, SIDES, st.integers(0, 100))
@settings(max_examples=examples(15, 100), deadline=None)
def test_exact_figures_are_their_definitions(m: int, n: int, seed: int) -> None:
    deltas = [random(m, n, seed=seed), random(m, n, seed=seed + 1)]
    merged = 0.7 * (deltas[0] + deltas[1])
    found = measured(deltas, merged)

    for index, each in enumerate((*deltas, merged)):
        values = torch.linalg.svdvals(each.double())
        spectrum = found.spectra[index]
        assert torch.allclose(spectrum.values, values[: len(spectrum.values)], rtol=1e-6)
        assert spectrum.energy(2) == pytest.approx(float(values[:2].square().sum()), rel=1e-6)
        assert spectrum.stable_rank == pytest.approx(float(values.square().sum() / values[0] ** 2), rel=1e-6)
        assert spectrum.effective_rank == pytest.approx(
            float(values.square().sum() ** 2 / values.pow(4).sum()), rel=1e-6
        )
    for index, each in enumerate(deltas):
        gap = (merged - each).double() @ each.double().T
        assert found.losses[index].merged == pytest.approx(float(gap.square().sum()), rel=1e-6, abs=1e-9)
        assert found.losses[index].base == pytest.approx(
            float((each.double() @ each.double().T).square().sum()), rel=1e-6
        )


def test_shared_directions_are_the_cosines_between_spans() -> None:
    left, right = (torch.linalg.qr(random(size, 16, seed=size).double()).Q.float() for size in (40, 24))
    strong = torch.tensor([3.0, 2.0])
    one = (left[:, :2] * strong) @ right[:, :2].T
    other = (left[:, 4:6] * strong) @ right[:, [0, 7]].T  # half of the inputs, none of the outputs
    overlap = measured([one, other], one).overlaps[0, 1]

    assert overlap is not None
    assert overlap.inputs == pytest.approx(0.5, abs=1e-6)
    assert overlap.outputs == pytest.approx(0.0, abs=1e-6)
    assert overlap.by_chance == (2 / 24, 2 / 40)


@given(st.integers(1, 4), st.integers(0, 100))
@settings(max_examples=examples(8, 60), deadline=None)
def test_factors_have_the_figures_of_their_product(rank: int, seed: int) -> None:
    low = [LowRank(random(30, rank, seed=seed + i), random(rank, 20, seed=seed + 9 + i)) for i in range(2)]
    merged = LowRank(torch.cat([low[0].up, low[1].up], 1), torch.cat([low[0].down, low[1].down]))
    thin = measure_matrix(low, merged, "name")
    dense = measured([each.dense() for each in low], merged.dense())

    for one, other in zip(thin.spectra, dense.spectra, strict=True):
        assert torch.allclose(one.values[:rank], other.values[:rank], rtol=1e-4)
        assert one.effective_rank == pytest.approx(other.effective_rank, rel=1e-4)
    for ours, theirs in zip(thin.losses, dense.losses, strict=True):
        assert (ours.merged, ours.base) == pytest.approx((theirs.merged, theirs.base), rel=1e-4)
    shared, expected = thin.overlaps[0, 1], dense.overlaps[0, 1]
    assert shared is not None and expected is not None
    assert (shared.inputs, shared.outputs) == pytest.approx((expected.inputs, expected.outputs), abs=1e-4)
    assert shared.by_chance == expected.by_chance


@pytest.mark.parametrize("shape", [(150, 110), (90, 160)])
@pytest.mark.parametrize("make", [decaying, lambda m, n, seed: random(m, n, seed=seed)])
def test_estimates_are_within_their_errors(
    shape: tuple[int, int], make: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(make)
    deltas = [make(*shape, seed) for seed in (1, 2)]
    merged = 0.6 * (deltas[0] + deltas[1])
    exact = measured(deltas, merged)
    monkeypatch.setattr(module, "EXACT_SIDE", 0)
    found = measured(deltas, merged)

    assert (exact.exact, found.exact) == (True, False)
    for one, other in zip(found.spectra, exact.spectra, strict=True):
        gap = (one.values - other.values[: len(one.values)]).abs().max() / other.values[0]
        assert float(gap) <= one.error + 1e-6
        assert one.square == pytest.approx(other.square, rel=1e-5)
        assert one.effective_rank == pytest.approx(other.effective_rank, rel=0.1)
    for ours, theirs in zip(found.losses, exact.losses, strict=True):
        assert abs(ours.merged - theirs.merged) <= 4 * ours.variance**0.5 + 1e-4 * theirs.merged


def test_estimates_of_what_decays_are_nearly_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    deltas = [decaying(120, 100, seed) for seed in (1, 2)]
    exact = measured(deltas, deltas[0])
    monkeypatch.setattr(module, "EXACT_SIDE", 0)
    found = measured(deltas, deltas[0])

    assert found.spectra[0].error < 0.01
    assert found.losses[0].merged == pytest.approx(0, abs=1e-9)
    assert found.losses[1].merged == pytest.approx(exact.losses[1].merged, rel=1e-3)
    assert found.spectra[1].stable_rank == pytest.approx(exact.spectra[1].stable_rank, rel=1e-4)


def test_the_base_has_the_loss_of_the_base_and_the_expert_has_none() -> None:
    delta = random(9, 7)
    assert measured([delta], torch.zeros(9, 7)).losses[0].merged == pytest.approx(
        measured([delta], delta).losses[0].base
    )
    assert measured([delta], delta).losses[0].merged == 0


@pytest.mark.parametrize("large", [False, True])
def test_a_change_that_is_zero_has_no_spectrum(large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if large:
        monkeypatch.setattr(module, "EXACT_SIDE", 0)
    zero = torch.zeros(20, 16)
    found = measured([zero, random(20, 16)], random(20, 16, seed=3))

    assert (found.spectra[0].stable_rank, found.spectra[0].effective_rank) == (None, None)
    assert (found.losses[0].merged, found.losses[0].base) == (0, 0)
    assert found.overlaps == {(0, 1): None}
