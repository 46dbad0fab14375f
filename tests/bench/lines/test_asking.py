from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from optmerge.bench.lines.tiny import asking, tiny_models
from optmerge.bench.lines.tiny.family import Processor, TinySize
from optmerge.bench.tasks import get
from optmerge.evaluate.answering import equally_long


@pytest.mark.parametrize("line", ["full", "lora"])
def test_an_answer_does_not_depend_on_the_questions_around_it(
    line: str, processors: Mapping[str, Processor], tiny: TinySize
) -> None:
    model = tiny_models.build(processors[line], tiny, seed=1).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.5)  # so large that it says something, and not always the same
    asked = list(get("vqa").items("validation", 12))
    together = asking.answers(model, processors[line], asked, tokens=4)
    one_by_one = [asking.answers(model, processors[line], [one], tokens=4)[0] for one in asked]
    assert together == one_by_one and len(set(together)) > 1


def test_groups_are_equally_long_and_hold_every_row_once() -> None:
    lengths = [3, 5, 3, 3, 5, 4, 3]
    groups = equally_long(lengths, 2)
    assert sorted(row for group in groups for row in group) == list(range(7))
    assert all(len({lengths[row] for row in group}) == 1 and len(group) <= 2 for group in groups)
    assert len(groups) == 4
