"""The fast solvers end where the literal ones do, over shapes, ranks, and settings of the optimiser."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from optmerge.deltas import LowRank
from optmerge.errors import MethodError
from optmerge.methods import merge_deltas
from optmerge.methods._solvers.linalg import leading_directions, polar_factor
from optmerge.methods._solvers.quadratic import interaction, sgd_filter
from optmerge.methods.aswudi import adaptive_filter, adaptive_rank
from optmerge.methods.swudi import FLOOR
from worlds.deltas import SHAPES, dense_deltas, factors, materialised, orthogonal, randn, relative

light = settings(max_examples=40, deadline=None)


def truncation_is_defined(deltas: Tensor, k: int, centred: bool) -> bool:
    """No two singular values meet at the cut, where either side would do."""
    parts = [*deltas, *(deltas - deltas.mean(0))] if centred else [*deltas]
    for part in parts:
        values = torch.linalg.svdvals(part)
        if (
            k < len(values)
            and float(values[k - 1] - values[k]) <= 1e-4 * float(values[0])
            and values[k] > 1e-12
        ):
            return False
    return True


@st.composite
def sgd_settings(draw: st.DrawFn) -> dict[str, Any]:
    """Steps that converge: λ_max ≤ N ≤ 5, so lr ≤ 0.19 keeps lr·λ_max below 1."""
    return {
        "lr": draw(st.sampled_from([1e-4, 1e-2, 0.05, 0.19])),
        "momentum": draw(st.sampled_from([0.0, 0.5, 0.9])),
        "steps": draw(st.sampled_from([0, 1, 7, 60])),
        "start": draw(st.sampled_from(["sum", "mean"])),
        "rank_fraction": draw(st.sampled_from([None, 0.2, 0.5, 1.0])),
    }


@pytest.mark.parametrize("variant", ["lora", "full"])
@light
@given(deltas=dense_deltas(), chosen=sgd_settings())
def test_one_formula_ends_where_all_sgd_steps_end(
    variant: str, deltas: Tensor, chosen: dict[str, Any]
) -> None:
    count, m, n = deltas.shape
    fraction = chosen["rank_fraction"] or 1 / count
    assume(truncation_is_defined(deltas, max(1, int(min(m, n) * fraction + 1e-9)), variant == "full"))
    literal, gram, formula = (
        merge_deltas("optmerge", deltas, variant=variant, optimizer="sgd", solver=solver, **chosen)
        for solver in ("iterate", "gram", "closed_form")
    )
    scale = max(float(delta.norm()) for delta in deltas) or 1
    assert relative(gram, literal, scale) < 1e-6
    assert relative(formula, literal, scale) < 1e-6


@light
@given(
    shape=st.sampled_from(SHAPES), count=st.integers(1, 4), seed=st.integers(0, 999), chosen=sgd_settings()
)
def test_the_formula_holds_in_factor_space(
    shape: tuple[int, int], count: int, seed: int, chosen: dict[str, Any]
) -> None:
    deltas = [factors(*shape, 1 + index % 2, seed=seed + 10 * index) for index in range(count)]
    dense = torch.stack([delta.dense() for delta in materialised(deltas)])
    k = max(1, int(min(shape) * (chosen["rank_fraction"] or 1 / count) + 1e-9))
    assume(truncation_is_defined(dense, k, centred=False))
    formula = merge_deltas("optmerge", deltas, **chosen)
    literal = merge_deltas("optmerge", dense, variant="lora", solver="iterate", **chosen)
    assert relative(formula.dense(), literal, float(dense.norm(dim=(1, 2)).max())) < 1e-6


@pytest.mark.parametrize("name", ["wudi", "optmerge lora", "optmerge full"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(max_examples=8, deadline=None)
@given(shape=st.sampled_from(SHAPES[1:]), count=st.integers(2, 4), seed=st.integers(0, 999))
def test_adam_on_the_gram_matrix_follows_the_literal_loop(
    name: str, dtype: torch.dtype, shape: tuple[int, int], count: int, seed: int
) -> None:
    deltas = (randn(count, *shape, seed=seed) / math.sqrt(math.prod(shape))).to(dtype)
    parameters: dict[str, Any] = {"lr": 1e-5, "steps": 50}
    if name != "wudi":
        parameters |= {"variant": name.split()[1], "optimizer": "adam"}
    literal, gram = (
        merge_deltas(name.split()[0], deltas, solver=solver, **parameters) for solver in ("iterate", "gram")
    )
    assert relative(gram, literal) < 1e-5


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("steps", [0, 1, 2, 300])
def test_the_sgd_filter_is_the_literal_recurrence(momentum: float, steps: int) -> None:
    values = torch.tensor([4.0, 1.0, 0.3, 1e-3, 1e-6], dtype=torch.float64)
    error, velocity, lr = torch.ones_like(values), torch.zeros_like(values), 0.05
    for _ in range(steps):
        velocity = momentum * velocity + 2 * values * error
        error = error - lr * velocity
    phi = sgd_filter(steps, lr, momentum)
    torch.testing.assert_close(phi(values) * values, 1 - error, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_sgd_filter_is_finite_at_zero(momentum: float) -> None:
    """With e = 1 throughout, v is a geometric sum and φ its sum times lr."""
    steps, lr, velocity, total = 300, 1e-4, 0.0, 0.0
    for _ in range(steps):
        velocity = momentum * velocity + 2
        total += lr * velocity
    at_zero = sgd_filter(steps, lr, momentum)(torch.tensor([1e-14, 0.0], dtype=torch.float64))
    assert at_zero.tolist() == pytest.approx([total, total], rel=1e-9)


def test_the_learning_rate_is_refused_exactly_where_sgd_diverges() -> None:
    curvature = torch.tensor([2.0], dtype=torch.float64)
    for momentum in (0.0, 0.5, 0.9):
        limit = (1 + momentum) / 2.0
        below, above = limit * 0.999, limit * 1.001
        assert abs(1 - 2 * float(sgd_filter(20_000, below, momentum)(curvature))) < 1e-3
        with pytest.raises(MethodError, match="diverges"):
            sgd_filter(1, above, momentum)(curvature)


@light
@given(deltas=dense_deltas())
def test_the_exact_wudi_solution_has_no_gradient_left(deltas: Tensor) -> None:
    merged = merge_deltas("wudi", deltas, solver="exact")
    gradient = interaction(list(deltas)).gradient(merged)
    scale = max(float(delta.norm()) for delta in deltas) or 1
    assert float(gradient.norm()) <= 1e-4 * scale


@pytest.mark.parametrize("start", ["sum", "mean", "zero"])
@light
@given(
    deltas=dense_deltas(),
    time=st.sampled_from([1e-3, 1.0, 300.0]),
    fraction=st.sampled_from([0.3, 0.65, 1.0]),
)
def test_swudi_is_its_definition(start: str, deltas: Tensor, time: float, fraction: float) -> None:
    count, _, n = deltas.shape
    C, D, origin = definition(deltas, start)
    values, Q = torch.linalg.eigh(C)
    values, Q = values.flip(0).clamp(min=FLOOR), Q.flip(1)
    f = 1 - torch.exp(-values * time)
    f[math.ceil(fraction * n - 1e-9) :] = 0
    expected = origin - origin @ Q @ f.diag() @ Q.T + D @ Q @ (f / values).diag() @ Q.T
    merged = merge_deltas("swudi", deltas, time=time, rank_fraction=fraction, start=start)
    # an eigenvalue under the floor counts as the floor in one form and as itself in the other
    assert relative(merged, expected, max(float(delta.norm()) for delta in deltas) or 1) < 1e-3 * count


def definition(deltas: Tensor, start: str) -> tuple[Tensor, Tensor, Tensor]:
    """C, D and θ₀ as the formulas have them."""
    moving = [delta for delta in deltas if delta.any()]
    zero = torch.zeros(deltas.shape[2], deltas.shape[2], dtype=deltas.dtype)
    C = sum((delta.T @ delta / delta.square().sum() for delta in moving), zero)
    D = sum((delta @ delta.T @ delta / delta.square().sum() for delta in moving), torch.zeros_like(deltas[0]))
    return C, D, {"sum": deltas.sum(0), "mean": deltas.mean(0), "zero": torch.zeros_like(deltas[0])}[start]


RULES = {
    "participation_sqrt": lambda eig: sum(math.sqrt(x) for x in eig) ** 2 / sum(eig),
    "participation": lambda eig: sum(eig) ** 2 / sum(x * x for x in eig),
    "stable_rank": lambda eig: sum(x * x for x in eig) / max(eig) ** 2,
    "entropy": lambda eig: math.exp(-sum(x / sum(eig) * math.log(x / sum(eig)) for x in eig)),
}


@pytest.mark.parametrize("rule", RULES)
@light
@given(eigenvalues=st.lists(st.floats(1e-8, 5), min_size=1, max_size=12))
def test_rank_rules_are_their_definitions(rule: str, eigenvalues: list[float]) -> None:
    ordered = sorted(eigenvalues, reverse=True)
    exact = RULES[rule](ordered)
    assume(abs(exact - round(exact)) > 1e-9)
    found = adaptive_rank(torch.tensor(ordered, dtype=torch.float64), rule, 1.0)
    assert found == min(len(ordered), math.ceil(exact))


@pytest.mark.parametrize("share", ["0.5", "0.9", "0.99", ".75", "1"])
@light
@given(eigenvalues=st.lists(st.integers(1, 1000), min_size=1, max_size=12))
def test_cumvar_takes_the_fewest_eigenvalues_that_reach_a_share(share: str, eigenvalues: list[int]) -> None:
    ordered = sorted(eigenvalues, reverse=True)
    fewest = next(k for k in range(1, 13) if sum(ordered[:k]) >= float(share) * sum(ordered) - 1e-9)
    assert adaptive_rank(torch.tensor(ordered, dtype=torch.float64), f"cumvar_{share}", 1.0) == fewest


@pytest.mark.parametrize("shape", [(10, 10), (10, 20), (40, 20)])
def test_gavish_donoho_counts_singular_values_above_the_noise(shape: tuple[int, int]) -> None:
    beta = min(shape) / max(shape)
    omega = math.sqrt(2 * (beta + 1) + 8 * beta / (beta + 1 + math.sqrt(beta**2 + 14 * beta + 1)))
    omega /= math.sqrt(2 + math.sqrt(3)) if beta == 1 else math.sqrt(max((1 - beta) ** 2 + beta, 1e-3))
    noise = [1.0 + index / 100 for index in range(9)]
    for far, expected in ((0.99, 1), (1.01, 2)):  # the median of the eleven is the sixth from below, 1.05
        singular = torch.tensor([90.0, far * omega * noise[5], *reversed(noise)], dtype=torch.float64)
        assert adaptive_rank(singular.square(), "gavish_donoho", beta) == expected


def test_a_rank_rule_sees_the_eigenvalues_that_factors_leave_out() -> None:
    values = torch.tensor([1.0, 0.5], dtype=torch.float64)
    padded = torch.cat([values, torch.full((30,), FLOOR, dtype=torch.float64)])
    for rule in ("participation_sqrt", "entropy", "gavish_donoho"):
        kept = int((adaptive_filter(rule, (40, 32))(values) > 0).sum())
        assert kept == min(2, adaptive_rank(padded, rule, 32 / 40))


@light
@given(shape=st.sampled_from(SHAPES), k=st.integers(1, 8), seed=st.integers(0, 999))
def test_leading_directions_are_the_singular_triplets(shape: tuple[int, int], k: int, seed: int) -> None:
    matrix = randn(*shape, seed=seed)
    top = leading_directions(matrix, k)
    values = torch.linalg.svdvals(matrix)[:k]
    assume(float(values[-1]) > 1e-4 * float(values[0]))
    torch.testing.assert_close(top.values, values, rtol=1e-6, atol=0)
    torch.testing.assert_close(matrix @ top.right, top.left * top.values)
    torch.testing.assert_close(matrix.T @ top.left, top.right * top.values)


@light
@given(shape=st.sampled_from(SHAPES), rank=st.integers(1, 9), seed=st.integers(0, 999))
def test_a_polar_factor_is_a_partial_isometry(shape: tuple[int, int], rank: int, seed: int) -> None:
    rank = min(rank, *shape)
    left, right = orthogonal(shape[0], seed)[:, :rank], orthogonal(shape[1], seed + 1)[:, :rank]
    sizes = torch.linspace(1, 3, rank, dtype=torch.float64)
    torch.testing.assert_close(polar_factor((left * sizes) @ right.T), left @ right.T, rtol=1e-6, atol=1e-6)


def test_factors_of_ranks_beyond_the_smaller_side_are_solved_as_dense() -> None:
    deltas = [LowRank(randn(6, 4, seed=i), randn(4, 5, seed=i + 9)) for i in range(3)]
    for name in ("swudi", "aswudi", "optmerge"):
        parameters = {"variant": "lora"} if name == "optmerge" else {}
        merged = merge_deltas(name, deltas, **parameters)
        assert not isinstance(merged, LowRank)
        assert relative(merged.dense(), merge_deltas(name, materialised(deltas), **parameters).dense()) < 1e-9
