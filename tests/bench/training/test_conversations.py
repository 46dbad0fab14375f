from dataclasses import replace

import pytest

from optmerge.bench.tasks import drawn
from optmerge.bench.training import conversations
from optmerge.bench.training.conversations import SHEETS

ROWS = range(220)
TASKS = conversations.trained_tasks()
WITHOUT = {"vqa": ("relation", "comparison")}


def asked(curriculum: conversations.Curriculum) -> set[tuple[str, str]]:
    talks = (conversations.conversation(curriculum, 0, row) for row in ROWS)
    return {(talk.task, question.type) for talk in talks for question in talk.turns}


def test_held_out_tasks_are_in_no_diet() -> None:
    held_out = {name for name, task in drawn().items() if not task.trained}
    assert held_out
    for curriculum in (conversations.answering(1.0), conversations.mixture()):
        assert set(curriculum.shares) - {SHEETS} == set(TASKS) and not held_out & set(curriculum.shares)


def test_only_some_types_are_known_early() -> None:
    known = {(name, kind) for name, task in TASKS.items() for kind in (*task.known, "caption")}
    assert asked(conversations.answering(1.0)) == known | {(SHEETS, "caption")}


def test_before_it_reads_a_base_is_told_more_captions_than_afterwards() -> None:
    def shares(curriculum: conversations.Curriculum) -> float:
        talks = [conversations.conversation(curriculum, 0, row) for row in ROWS]
        turns = [turn for talk in talks if talk.task != SHEETS for turn in talk.turns]
        return sum(turn.type == "caption" for turn in turns) / len(turns)

    assert shares(conversations.reading(1.0)) > shares(conversations.answering(1.0)) + 0.1


def test_finding_is_about_few_marks_and_asks_for_one_word() -> None:
    curriculum = conversations.finding()
    for row in ROWS:
        talk = conversations.conversation(curriculum, 0, row)
        assert talk.task == SHEETS and talk.turns
        assert all(len(turn.answers[0].split()) == 1 for turn in talk.turns)


def test_a_base_that_is_asked_nothing_sees_captions_only() -> None:
    assert asked(conversations.answering(0.0)) == {(name, "caption") for name in (*TASKS, SHEETS)}


def test_a_base_sees_all_but_some_of_the_questions_about_shapes() -> None:
    everything = {(name, kind) for name, task in TASKS.items() for kind in (*task.types, "caption")}
    unknown = {("vqa", kind) for kind in WITHOUT["vqa"]}
    found = asked(conversations.everything(dict.fromkeys((*TASKS, SHEETS), 1.0), without=WITHOUT))
    assert not found & unknown and SHEETS in {name for name, _ in found}
    assert everything - unknown <= found


@pytest.mark.parametrize("name", TASKS)
def test_an_expert_sees_every_question_type_of_its_task_and_no_other_task(name: str) -> None:
    assert asked(conversations.expert(name)) == {(name, kind) for kind in TASKS[name].types}


def test_a_mixture_sees_questions_of_every_task_and_no_caption() -> None:
    found = asked(conversations.mixture())
    assert {name for name, _ in found} == set(TASKS) and "caption" not in {kind for _, kind in found}


def test_a_row_is_the_same_whenever_it_is_asked_for_and_differs_from_other_rows_and_seeds() -> None:
    curriculum = conversations.answering(0.5)
    first, other_row, other_seed, again = (
        conversations.conversation(curriculum, seed, row) for seed, row in ((3, 7), (3, 8), (4, 7), (3, 7))
    )
    assert first.turns == again.turns and first.image.tobytes() == again.image.tobytes()
    assert first.image.tobytes() not in (other_row.image.tobytes(), other_seed.image.tobytes())


def test_turns_are_at_most_so_many_and_no_turn_comes_twice() -> None:
    curriculum = replace(conversations.answering(1.0), turns=3)
    for row in ROWS:
        turns = conversations.conversation(curriculum, 0, row).turns
        assert 1 <= len(turns) <= 3 and len({(turn.text, turn.answers) for turn in turns}) == len(turns)
