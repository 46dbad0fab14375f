"""Which records count, and what they add up to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from optmerge.bench.trials.line_scores import line_scores
from optmerge.bench.trials.record_choice import SCALES, average, best_scale, current, sweeps
from worlds import records as synthetic


def one(results: Any, **options: Any) -> Any:
    (found,) = line_scores(results, **options)
    return found


def find(scores: Any, label: Any, rule: str = "fixed") -> Any:
    return next((each for each in scores.models if (each.label, each.rule) == (label, rule)), None)


def names(scores: Any) -> list[Any]:
    return [(each.label, each.rule) for each in scores.models]


def again(result: Any, order: Any, **changes: Any) -> Any:
    """The same trial, run later."""
    return replace(result, created=synthetic.CREATED.format(order), **changes)


def test_models_stand_in_the_order_of_the_table() -> None:
    scores = one(synthetic.line(n=20))
    experts = [f"expert:{task}" for task in synthetic.TRAINED]
    fixed = [(method, "fixed") for method in sorted(synthetic.METHODS)]
    chosen = [(method, "validation") for method in sorted(synthetic.METHODS) if method != "average"]
    assert [name for name, _ in names(scores)[:6]] == ["base", *experts]
    assert names(scores)[6:] == [*fixed, *chosen, ("routing", "fixed"), ("mixture", "fixed")]
    assert scores.tasks == (*synthetic.TRAINED, "composition") and scores.notes == ()


def test_the_fixed_rule_takes_the_default_and_the_other_the_best_on_validation() -> None:
    scores = one(synthetic.line(n=60))
    for method, (_, best, _) in synthetic.METHODS.items():
        default = synthetic.DEFAULT if best else 1.0
        assert find(scores, method).scales == (default,)
        assert best is None or find(scores, method, "validation").scales == (best,)


def test_without_a_whole_sweep_nothing_is_chosen() -> None:
    results = [r for r in synthetic.line(n=20) if r.trial.split == "test" or r.trial.scale != SCALES[2]]
    assert {rule for _, rule in names(one(results))} == {"fixed"}


def test_a_scale_is_chosen_without_those_that_failed() -> None:
    results = synthetic.line(n=60)
    sweep = sweeps(results)["optmerge", 0]
    assert best_scale(sweep) == 0.7
    rest = {s: replace(r, error="NaN", tasks={}) if s == 0.7 else r for s, r in sweep.items()}
    assert best_scale(rest) in (0.5, 1.0)
    assert best_scale({s: replace(r, error="NaN", tasks={}) for s, r in sweep.items()}) is None


def test_of_equal_scales_the_smallest_is_chosen() -> None:
    result = synthetic.line(n=20)[0]
    assert best_scale(dict.fromkeys(reversed(SCALES), result)) == 0.1


def test_routing_is_each_experts_own_capability_and_has_no_composition() -> None:
    scores = one(synthetic.line(n=20, sets=2))
    routing = find(scores, "routing")
    assert routing.sets == (0, 1) and set(routing.scores) == set(synthetic.TRAINED)
    for task in synthetic.TRAINED:
        assert np.array_equal(routing.scores[task], find(scores, f"expert:{task}").scores[task])


def test_sets_are_stacked_in_order_and_the_base_belongs_to_none() -> None:
    results = synthetic.line(n=20, sets=3)
    scores = one(sorted(results, key=lambda r: -(r.trial.expert_set or 0)))
    assert find(scores, "tsv").sets == (0, 1, 2) and find(scores, "base").sets == ()
    assert find(scores, "tsv").scores["ocr"].shape == (3, 20)
    by_set = {r.trial.expert_set: r for r in results if (r.trial.model, r.trial.split) == ("average", "test")}
    stacked = find(scores, "average").scores["ocr"]
    assert all(np.array_equal(stacked[number], by_set[number].tasks["ocr"].scores) for number in by_set)


def test_the_newest_of_two_equal_trials_counts() -> None:
    results = synthetic.line(n=20)
    at = next(i for i, r in enumerate(results) if r.trial.model == "average")
    perfect = {t: replace(s, scores=np.ones(20)) for t, s in results[at].tasks.items()}
    assert (
        find(one([*results, again(results[at], 9000, tasks=perfect)]), "average").scores["vqa"].min() == 1.0
    )
    assert find(one([again(results[at], 0, tasks=perfect), *results]), "average").scores["vqa"].min() == 0.0


def test_a_failure_that_was_made_good_is_forgotten_and_one_that_was_not_is_kept() -> None:
    results = synthetic.line(n=20, sets=2)
    done = next(r for r in results if r.trial.model == "average" and r.trial.expert_set == 1)
    broken = replace(done, tasks={}, error="out of memory")
    assert find(one([broken, *results]), "average").failures == ()
    rest = [r for r in results if r is not done]
    model = find(one([*rest, broken]), "average")
    assert model.sets == (0,) and model.failures == ((1, "out of memory"),)


def test_records_of_other_task_versions_are_left_out_and_counted() -> None:
    results = synthetic.line(n=20)
    old = [replace(r, trial=replace(r.trial, tasks=r.trial.tasks | {"vqa": 99})) for r in results[:3]]
    alive, notes = current([*old, *results])
    assert alive == results and notes == ["3 records of other task versions are left out"]
    unknown = replace(results[0], trial=replace(results[0].trial, tasks={"gone": 1}))
    assert current([unknown, *results])[0] == results


def test_records_of_weights_that_were_trained_again_are_left_out() -> None:
    results = synthetic.line(n=20, sets=2)
    retrained = [
        replace(
            r,
            trial=replace(
                r.trial, weights={k: v if k == "base" else v + "!" for k, v in r.trial.weights.items()}
            ),
        )
        for r in results
        if r.trial.expert_set == 1
    ]
    alive, notes = current([*results, *retrained])
    old = [r for r in results if r.trial.expert_set == 1]
    assert len(alive) == len(results) and not any(r in alive for r in old)
    assert notes == [f"{len(old)} records of earlier weights are left out"]


def test_a_new_base_makes_everything_of_its_line_and_nothing_of_the_other_old() -> None:
    full, lora = synthetic.line(n=20), synthetic.line("lora", n=20)
    newer = replace(full[0], trial=replace(full[0].trial, weights={"base": "new"}))
    alive, _ = current([*full, *lora, newer])
    assert alive == [*lora, newer]


def test_lines_come_apart_and_the_most_questions_count_unless_others_are_asked_for() -> None:
    few, many = synthetic.line(n=20), synthetic.line(n=30)
    assert one([*few, *many]).n == 30 and one([*few, *many], n=20).n == 20
    assert (
        one([*few, *many])
        .notes[0]
        .startswith(f"{sum(r.trial.split == 'test' for r in few)} records of other")
    )
    assert line_scores(few, n=999) == []
    assert [each.line for each in line_scores([*synthetic.line("lora", n=20), *few])] == ["full", "lora"]


def test_the_average_is_over_the_trained_tasks_alone() -> None:
    result = synthetic.line(n=20)[0]
    expected = np.mean([result.tasks[task].scores.mean() for task in synthetic.TRAINED])
    assert average(result) == pytest.approx(expected)


def test_who_lacks_a_set_is_named() -> None:
    results = synthetic.line(n=20, sets=2, swept=False)
    kept = [r for r in results if (r.trial.model, r.trial.expert_set) != ("tsv", 1)]
    assert one(kept).notes == ("tsv (fixed): of expert sets 0, 1 only 0",)
    assert one(results).notes == ()


def test_where_sets_have_mixtures_of_their_own_a_common_one_is_left_out() -> None:
    results = synthetic.line(n=20, sets=2, swept=False)
    own = next(r for r in results if r.trial.model == "mixture")
    common = replace(own, trial=replace(own.trial, expert_set=None))
    assert find(one([*results, common]), "mixture").scores["ocr"].shape == (2, 20)
    without = [r for r in results if r.trial.model != "mixture"]
    alone = find(one([*without, common]), "mixture")
    assert alone.sets == () and alone.scores["ocr"].shape == (1, 20)


def test_a_line_of_which_everything_failed_names_the_first_failure() -> None:
    results = [replace(r, tasks={}, error=f"no {r.trial.label}") for r in synthetic.line(n=20)]
    assert one(results).failure == "base: no base"
    assert one([*results[1:], synthetic.line(n=20)[0]]).failure is None
    assert one(results).references(()) is None
