from __future__ import annotations

from collections import Counter

import pytest

from optmerge.bench.tasks import drawn, get


@pytest.mark.parametrize("name", drawn())
def test_every_type_is_asked_and_none_more_than_three_times_its_share(name: str) -> None:
    counts = Counter(each.question.type for each in get(name).items("test", 150))
    assert counts.keys() == set(get(name).types)
    assert max(counts.values()) <= 3 * 150 / len(counts)


def test_fewer_questions_are_the_beginning_of_more() -> None:
    few, many = (list(get("chart").items("test", n)) for n in (10, 30))
    assert [each.question for each in few] == [each.question for each in many][:10]


def test_each_question_is_about_a_picture_of_its_own() -> None:
    everything = list(get("grounding").items("validation", 40))
    assert len({each.image.tobytes() for each in everything}) == 40
    scenes = [drawn()["grounding"].scene("validation", index) for index in range(40)]
    assert all(each.question in scene.questions for each, scene in zip(everything, scenes, strict=True))
