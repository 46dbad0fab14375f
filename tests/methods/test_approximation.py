"""The flow on wide matrices: near the solution of its eigenproblem, or that solution itself."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from perf.workspace import measured
from torch import Tensor

from optmerge.methods import Case, get, merge_deltas
from optmerge.methods._solvers import approximation
from optmerge.methods._solvers.approximation import approximate_flow, is_approximated
from optmerge.methods.swudi import flow
from worlds.deltas import randn, relative

EXPERTS, M, N = 5, 60, 326
TIME = 300 * EXPERTS * M / 17920  # λ·time as in a 3584×18944 matrix of five experts
NOISE = {"flat": 1.0, "decaying": 0.0, "decaying, a tenth of it noise": 0.1}


@pytest.fixture(autouse=True)
def small_is_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices of hundreds of columns are approximated, from a Krylov space that is far from all of them."""
    monkeypatch.setattr(approximation, "EXACT_SIDE", 64)
    monkeypatch.setattr(approximation, "PROBES", 8)
    monkeypatch.setattr(approximation, "STEPS", 8)


def experts(kind: str, rank: int = M) -> Tensor:
    """Singular values that fall by three orders of magnitude, and noise without any order."""
    sizes = 10 ** -torch.linspace(0, 3, rank, dtype=torch.float64)
    found = []
    for seed in range(EXPERTS):
        ordered = (randn(M, rank, seed=2 * seed) * sizes) @ randn(rank, N, seed=2 * seed + 1)
        noise = randn(M, N, seed=100 + seed)
        share = NOISE[kind]
        found.append(
            ordered / ordered.norm() * math.sqrt(1 - share) + noise / noise.norm() * math.sqrt(share)
        )
    return torch.stack(found)


def merged(deltas: Tensor | Sequence[Tensor], tolerance: float, time: float = TIME, **more: str) -> Tensor:
    found: Tensor = merge_deltas("swudi", deltas, time=time, tolerance=tolerance, **more)
    return found


@pytest.mark.parametrize("start", ["sum", "mean", "zero"])
@pytest.mark.parametrize("kind", NOISE)
def test_a_wide_matrix_is_solved_within_the_tolerance(kind: str, start: str) -> None:
    deltas = experts(kind)
    exact = merged(deltas, 0, start=start)
    for tolerance in (0.02, 0.002):
        assert relative(merged(deltas, tolerance, start=start), exact) <= tolerance


@pytest.mark.parametrize("kind", ["flat", "decaying, a tenth of it noise"])
def test_the_error_is_known_beforehand(kind: str) -> None:
    """What may err by less than it would is solved; what may err by three times that isn't."""
    deltas = experts(kind)
    exact = merged(deltas, 0)
    error = relative(merged(deltas, 0.1), exact)
    assert relative(merged(deltas, error / 1.2), exact) < 1e-9
    assert relative(merged(deltas, error * 3), exact) == pytest.approx(error)


def test_decaying_experts_are_approximated_by_default() -> None:
    deltas = experts("decaying, a tenth of it noise")
    exact, found = merged(deltas, 0), merge_deltas("swudi", deltas, time=TIME)
    assert 1e-4 < relative(found, exact) < 0.01
    assert torch.equal(found, merge_deltas("swudi", deltas, time=TIME))


@pytest.mark.parametrize("fraction", [0.01, 0.1, 1.0])
def test_the_cut_falls_where_it_does_in_the_eigenproblem(fraction: float) -> None:
    deltas = experts("decaying")
    exact, found = (
        merge_deltas("swudi", deltas, time=TIME, rank_fraction=fraction, tolerance=tolerance)
        for tolerance in (0, 0.02)
    )
    assert relative(found, exact) <= 0.02


@pytest.mark.parametrize("rank", [1, 3, 40])
def test_experts_of_low_rank_leave_nothing_to_approximate(rank: int) -> None:
    """The Krylov space ends before its steps do."""
    deltas = experts("decaying", rank)
    assert relative(merged(deltas, 0.02), merged(deltas, 0)) <= (1e-6 if rank < 10 else 0.02)


def test_experts_without_a_delta_have_no_term() -> None:
    deltas = list(experts("decaying"))
    deltas[2].zero_()
    assert relative(merged(deltas, 0.02), merged(deltas, 0)) <= 0.02
    assert not merged(torch.zeros(EXPERTS, M, N), 0.02).any()


def test_float32_deltas_are_approximated_as_well_as_their_float64_ones() -> None:
    deltas = [delta.float() for delta in experts("decaying, a tenth of it noise")]
    wide = [delta.double() for delta in deltas]
    chosen = ("sum", lambda values: flow(values, TIME), N // 2, 0.02)
    found, expected = approximate_flow(deltas, *chosen), approximate_flow(wide, *chosen)
    assert found is not None
    assert expected is not None
    assert relative(found, expected) < 1e-5


def test_an_approximation_holds_no_more_memory_than_is_declared() -> None:
    swudi = get("swudi")
    case = Case(5, 150, 820, swudi.validate({"tolerance": 0.9}))
    assert swudi.resources.tolerance(case) == 0.9
    assert measured(swudi, case) <= swudi.resources.workspace(case)


def test_only_wide_matrices_with_a_large_eigenproblem_are_approximated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    assert is_approximated(5, 3584, 18944)
    assert is_approximated(5, 896, 4864)
    assert not is_approximated(4, 896, 4864)
    assert not is_approximated(5, 18944, 3584)
    assert not is_approximated(5, 8192, 8192)
