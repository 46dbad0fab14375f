"""How models are asked: equally long prompts together, in halves where memory runs out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from optmerge.errors import RunError
from optmerge.evaluate.answering import answers


class Speaker:
    """Says how many the prompt's first token is, and has memory for a few rows at a time.

    Args:
        room: rows that fit into its memory.
        problem: what it raises when more come.
    """

    device = torch.device("cpu")

    def __init__(self, room: int, problem: type[RuntimeError] | None = None) -> None:
        self.room, self.problem, self.batches = room, problem, list[int]()

    def generate(self, *, input_ids: Tensor, **others: Any) -> Tensor:
        self.batches.append(len(input_ids))
        assert all(len(each) == len(input_ids) for each in others.values() if isinstance(each, Tensor))
        if len(input_ids) > self.room:
            if self.problem is None:
                torch.empty(1 << 60, dtype=torch.uint8)  # more than any machine has
                raise AssertionError("that fitted?")
            raise self.problem("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return torch.cat([input_ids, input_ids[:, :1]], dim=1)

    def batch_decode(self, rows: Tensor, *, skip_special_tokens: bool) -> list[str]:
        return [str(int(row[0])) for row in rows]


PROMPTS = [[number, *range(number % 3)] for number in range(20)]


@pytest.mark.parametrize("problem", [None, torch.OutOfMemoryError])
@pytest.mark.parametrize("room", [1, 2, 3, 20])
def test_where_memory_runs_out_smaller_batches_give_the_same_answers(
    room: int, problem: type[RuntimeError] | None
) -> None:
    speaker = Speaker(room, problem)
    seen: list[int] = []

    def inputs(rows: list[int], ids: Tensor) -> dict[str, Tensor]:
        assert ids.tolist() == [PROMPTS[row] for row in rows]
        seen.extend(rows)
        return {"pixels": torch.zeros(len(rows), 2)}

    assert answers(speaker, speaker, PROMPTS, inputs, batch=16) == [str(each[0]) for each in PROMPTS]
    too_large = [size for size in speaker.batches if size > room]
    assert len(too_large) <= 3, "a batch that was too large isn't tried again"
    assert set(seen) == set(range(20))


def test_a_prompt_that_does_not_fit_alone_is_named_and_other_errors_are_not_hidden() -> None:
    with pytest.raises(RunError, match="isn't enough memory on cpu to answer a question of 1 tokens"):
        answers(Speaker(0), Speaker(0), PROMPTS)

    class Broken(Speaker):
        def generate(self, **others: Any) -> Tensor:
            raise RuntimeError("shapes don't match")

    with pytest.raises(RuntimeError, match="shapes don't match"):
        answers(Broken(1), Broken(1), PROMPTS)
