"""Intervals and tests with answers known from elsewhere: by hand, from binomial theory, by simulation."""

from __future__ import annotations

from math import comb, sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from optmerge.errors import InputError
from optmerge.evaluate import statistics
from optmerge.evaluate.statistics import compare, estimate, holm, normalised


def one(right: int, n: int) -> np.ndarray:
    """One set's scores, (1, n)."""
    return np.array([[1.0] * right + [0.0] * (n - right)])


def bits(*rows: str) -> np.ndarray:
    return np.array([[float(bit) for bit in row] for row in rows])


# --- intervals


@pytest.mark.parametrize(("right", "n"), [(300, 400), (50, 100), (900, 1000), (20, 1000)])
def test_an_interval_is_as_wide_as_binomial_theory_says(right: Any, n: int) -> None:
    found, p = estimate([one(right, n)]), right / n
    half = 1.96 * sqrt(p * (1 - p) / n)
    assert found.score == p and found.n == n and found.sets == 1 and found.deviation is None
    assert found.high - found.low == pytest.approx(2 * half, rel=0.08)


def test_resampling_counts_is_the_bootstrap_of_rows() -> None:
    """Against the textbook's bootstrap, which draws whole rows, on scores with many distinct values."""
    rng = np.random.default_rng(1)
    columns = rng.random((40, 2)) ** 2
    columns[:, 1] += columns[:, 0]
    fast = statistics._resampled(columns, 40_000, rng)
    slow = columns[rng.integers(40, size=(40_000, 40))].mean(axis=1)
    assert fast.mean(axis=0) == pytest.approx(slow.mean(axis=0), abs=0.002)
    assert np.cov(fast.T) == pytest.approx(np.cov(slow.T), rel=0.05)
    assert np.percentile(fast, statistics.TAILS, axis=0) == pytest.approx(
        np.percentile(slow, statistics.TAILS, axis=0), abs=0.005
    )


def test_the_average_weighs_groups_and_not_questions() -> None:
    found = estimate([one(10, 10), one(0, 1000)])
    assert (found.score, found.n) == (0.5, 1010)


def test_the_variance_of_an_average_is_the_sum_of_the_groups_over_their_number_squared() -> None:
    found = estimate([one(50, 100), one(100, 400)])
    deviation = sqrt(0.25 / 100 + 0.1875 / 400) / 2
    assert found.high - found.low == pytest.approx(2 * 1.96 * deviation, rel=0.06)


def test_the_interval_covers_the_truth_nineteen_times_in_twenty() -> None:
    rng = np.random.default_rng(0)
    truths = (0.7, 0.3)
    covered = 0
    for trial in range(400):
        groups = [(rng.random((1, 200)) < truth).astype(float) for truth in truths]
        found = estimate(groups, seed=trial, resamples=1000)
        covered += found.low <= 0.5 <= found.high
    assert 0.91 <= covered / 400 <= 0.98  # five standard errors around 0.95, less what n = 200 costs


def test_three_sets_cover_the_truth_about_all_sets_where_one_would_not() -> None:
    """Sets that differ more than questions do: the questions' interval alone misses most of the time."""
    rng = np.random.default_rng(0)
    covered = narrow = 0
    for trial in range(300):
        levels = np.clip(rng.normal(0.6, 0.06, size=(3, 1)), 0, 1)
        scores = (rng.random((3, 500)) < levels).astype(float)
        found = estimate([scores], seed=trial, resamples=1000)
        covered += found.low <= 0.6 <= found.high
        half = 1.96 * sqrt(0.24 / 1500)
        narrow += abs(found.score - 0.6) <= half
    assert covered / 300 >= 0.93
    assert narrow / 300 < 0.75


def test_sets_give_mean_and_sample_deviation() -> None:
    found = estimate([bits("1100", "1110", "1000")])
    assert found.score == pytest.approx(0.5) and found.deviation == pytest.approx(0.25) and found.sets == 3
    same = estimate([bits("1100", "1100", "1100")])
    assert same.deviation == 0.0 and (same.low, same.high) == (estimate([bits("1100")]).low, same.high)


def test_certain_scores_have_an_interval_of_no_width() -> None:
    found = estimate([one(9, 9)])
    assert (found.score, found.low, found.high) == (1.0, 1.0, 1.0)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_an_interval_holds_its_score_and_lies_in_the_unit_interval(data: Any) -> None:
    sets = data.draw(st.integers(1, 3))
    groups = [
        data.draw(arrays(float, (sets, data.draw(st.integers(1, 30))), elements=st.floats(0, 1, width=16)))
        for _ in range(data.draw(st.integers(1, 3)))
    ]
    found = estimate(groups, resamples=500)
    assert 0.0 <= found.low <= found.high <= 1.0
    spread = found.high - found.low
    assert found.low - spread - 1e-9 <= found.score <= found.high + spread + 1e-9
    assert found == estimate(groups, resamples=500)


# --- scores beside the experts'


def test_a_normalised_score_is_the_mean_of_ratios() -> None:
    found = normalised([bits("1100"), bits("1000")], [bits("1111"), bits("1100")])
    assert found is not None and found.score == pytest.approx((0.5 + 0.5) / 2)
    each = normalised([bits("1100", "1110")], [bits("1111", "1100")])  # by set: 2/4 and 3/2
    assert each is not None and each.score == pytest.approx(1.0) and each.high > 1.0


def test_an_expert_beside_itself_is_one_without_doubt() -> None:
    scores = [one(30, 50), one(20, 40)]
    found = normalised(scores, scores)
    assert found is not None and (found.score, found.low, found.high) == (1.0, 1.0, 1.0)


def test_a_ratio_is_of_the_same_questions() -> None:
    """One score, on the expert's questions or on others; only the former moves with the expert's."""
    expert = bits("1" * 60 + "0" * 40)
    along = normalised([bits("1" * 50 + "0" * 50)], [expert])
    against = normalised([bits("0" * 50 + "1" * 50)], [expert])
    assert along is not None and against is not None and along.score == against.score
    assert against.high - against.low > 2 * (along.high - along.low)


def test_an_expert_that_is_never_right_leaves_nothing_to_divide_by() -> None:
    assert normalised([bits("11", "10")], [bits("11", "00")]) is None
    rarely = normalised([bits("10")], [bits("10")])  # a quarter of the resamples have no ratio
    assert rarely is not None and (rarely.low, rarely.high) == (1.0, 1.0)


# --- comparisons


def mcnemar(wins: int, losses: int) -> float:
    """Exact two-sided p-value."""
    n, most = wins + losses, max(wins, losses)
    return min(1.0, 2 * sum(comb(n, k) for k in range(most, n + 1)) / 2**n)


@pytest.mark.parametrize(("wins", "losses"), [(8, 2), (15, 5), (12, 8), (30, 14), (3, 3)])
def test_one_group_is_mcnemars_exact_test(wins: Any, losses: Any) -> None:
    first, second = one(wins, 100), np.roll(one(losses, 100), wins)
    found = compare([first], [second])
    assert found.mean == pytest.approx((wins - losses) / 100)
    assert found.p == pytest.approx(mcnemar(wins, losses), abs=0.012)


def test_an_interval_of_a_difference_is_that_of_pairs() -> None:
    """20 wins and 10 losses in 1,000; as independent samples the two scores would differ by nothing."""
    second = one(500, 1000)
    first = second.copy()
    first[0, 500:520], first[0, :10] = 1.0, 0.0
    found = compare([first], [second])
    deviation = sqrt((0.03 - 0.01**2) / 1000)
    assert found.high - found.low == pytest.approx(2 * 1.96 * deviation, rel=0.06)


def test_swapping_sides_swaps_signs() -> None:
    first, second = [bits("1101", "1100")], [bits("0101", "0011")]
    one_way, other_way = compare(first, second), compare(second, first)
    assert one_way.mean == -other_way.mean and one_way.p == other_way.p
    assert one_way.sets == pytest.approx((0.25, 0.0)) == tuple(-each for each in other_way.sets)


def test_equal_answers_differ_by_nothing() -> None:
    found = compare([one(3, 9)], [one(3, 9)])
    assert (found.mean, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)


def test_false_alarms_are_as_rare_as_promised() -> None:
    rng = np.random.default_rng(3)
    alarms = 0
    for trial in range(300):
        first, second = ([(rng.random((1, 150)) < 0.5).astype(float) for _ in range(2)] for _ in range(2))
        alarms += compare(first, second, seed=trial, resamples=50).p < 0.05
    assert alarms / 300 <= 0.09  # 0.05 and three standard errors


def test_a_difference_of_five_points_on_a_thousand_questions_is_found() -> None:
    rng = np.random.default_rng(4)
    first, second = (
        [(rng.random((1, 1000)) < level).astype(float) for _ in range(5)] for level in (0.6, 0.55)
    )
    found = compare(first, second)
    assert found.p < 0.001 and found.low > 0


def test_different_questions_are_refused() -> None:
    for wrong in ([one(1, 3)], [one(1, 4), one(1, 4)], [bits("10", "10")]):
        with pytest.raises(InputError, match="can't be compared"):
            compare([one(1, 4)], wrong)


def test_holms_adjustment_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0] and holm([]) == []


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_adjusted_p_values_keep_their_order_and_never_fall(p_values: Any) -> None:
    adjusted = holm(p_values)
    assert all(p <= a <= 1.0 for p, a in zip(p_values, adjusted, strict=True))
    ranked = sorted(zip(p_values, adjusted, strict=True))
    assert [a for _, a in ranked] == sorted(a for _, a in ranked)
    assert min(adjusted) == min(1.0, len(p_values) * min(p_values))
