"""What every drawn task promises the trainer and the tables, plug-ins and the how-to page's example included.

The rules are written down for authors in `optmerge.bench.tasks.drawn`.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import subprocess
import sys
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from optmerge.bench.tasks import SIDE, SPLITS, DrawnTask, Scene, drawn
from optmerge.evaluate.questions import Question

PAGES = """
import sys
from pathlib import Path
from types import ModuleType

def tasks_on_pages(docs):
    \"\"\"The task that the how-to page writes as its example, by name.\"\"\"
    text = (Path(docs) / "how-to/add-a-drawn-task.md").read_text("utf-8")
    module = sys.modules["page"] = ModuleType("page")  # dataclasses look their module up
    exec(text.split("```python\\n")[1].split("```")[0], vars(module))
    return {module.TASK.name: module.TASK}
"""
DOCS = Path(__file__).parents[2] / "docs"
space: dict[str, Any] = {}
exec(PAGES, space)
TASKS: dict[str, DrawnTask] = {**drawn(), **space["tasks_on_pages"](DOCS)}

every_task = pytest.mark.parametrize("name", TASKS)
every_trained_task = pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.trained])

SCENES = {"train": 240, "validation": 150, "test": 150}
WORDS_ASKED, TOKENS_ANSWERED, TOKENS_CAPTIONED = 16, 16, 42
NONSENSE = ("", "?", "xyzzy plugh", "[]", "(", "\n")
TEXT = re.compile(r"(?:[a-z]+|[A-Z0-9]+|[ .,:?()\[\]/%$-])+")


@cache
def scenes(name: str, split: str) -> list[Scene]:
    return [TASKS[name].scene(split, index) for index in range(SCENES[split])]


def everything(name: str) -> list[Scene]:
    return [scene for split in SPLITS for scene in scenes(name, split)]


def asked(name: str) -> dict[str, list[Question]]:
    """Every question by its type."""
    found: dict[str, list[Question]] = defaultdict(list)
    for scene in everything(name):
        for question in scene.questions:
            found[question.type].append(question)
    return found


def tokens(text: str) -> int:
    return len(re.findall(r"[a-z]+|[A-Z]|\d+", text))


@every_task
def test_a_scene_is_a_picture_with_different_questions(name: str) -> None:
    for scene in everything(name):
        assert (scene.image.mode, scene.image.size) == ("RGB", (SIDE, SIDE))
        texts = [question.text for question in scene.questions]
        assert texts and len(texts) == len(set(texts)), texts


@every_task
def test_every_accepted_answer_scores_one_under_every_metric(name: str) -> None:
    for metric in TASKS[name].metrics.values():
        for question in (question for group in asked(name).values() for question in group):
            assert question.answers
            assert [metric(answer, question) for answer in question.answers] == [1.0] * len(question.answers)


@every_task
def test_no_answer_and_nonsense_score_zero(name: str) -> None:
    for metric in TASKS[name].metrics.values():
        for group in asked(name).values():
            assert [metric(text, group[0]) for text in NONSENSE] == [0.0] * len(NONSENSE)


@every_task
def test_shuffled_answers_score_at_chance(name: str) -> None:
    """Within a type: about how often two of its answers are equal; in all: far below a trained model."""
    for metric in TASKS[name].metrics.values():
        scores: list[float] = []
        for kind, group in asked(name).items():
            counts = Counter(question.answers[0] for question in group)
            equal = sum(count**2 for count in counts.values()) / len(group) ** 2
            shuffled = random.Random(0).sample(group, len(group))
            own = [metric(other.answers[0], q) for q, other in zip(group, shuffled, strict=True)]
            assert sum(own) / len(own) < equal + 0.15, kind
            scores += own
        assert sum(scores) / len(scores) < 0.4


@every_task
def test_no_two_splits_share_a_picture(name: str) -> None:
    owners: dict[bytes, str] = {}
    for split in SPLITS:
        for scene in scenes(name, split):
            pixels = hashlib.blake2b(scene.image.tobytes()).digest()
            assert owners.setdefault(pixels, split) == split


@every_task
def test_the_same_random_numbers_give_every_split_a_picture_of_its_own(name: str) -> None:
    """What a split may show depends on the split, not only on the numbers that a scene's name seeds."""
    task = TASKS[name]
    for seed in range(30):
        pictures = [task.draw(task.plan(random.Random(seed), split)).image.tobytes() for split in SPLITS]
        assert len(set(pictures)) == len(SPLITS)


@every_task
def test_pictures_and_questions_vary_with_index_and_seed(name: str) -> None:
    task = TASKS[name]
    first, second, reseeded = task.scene("train", 0), task.scene("train", 1), task.scene("train", 0, seed=1)
    assert len({scene.image.tobytes() for scene in (first, second, reseeded)}) == 3
    assert len({scene.image.tobytes() for scene in scenes(name, "train")}) > 0.9 * SCENES["train"]


DIGEST = """
import hashlib, json, sys
from optmerge.bench.tasks import SPLITS, drawn

def digest(task):
    found = hashlib.blake2b(digest_size=8)
    for split in SPLITS:
        for index in range(30):
            scene = task.scene(split, index, seed=5)
            found.update(scene.image.tobytes())
            found.update(repr((scene.questions, scene.captions)).encode())
    return found.hexdigest()
"""


@pytest.fixture(scope="module")
def digests_elsewhere() -> dict[str, str]:
    """Every task's digest from another process with another hash seed, made in the opposite order."""
    code = PAGES + DIGEST + "tasks = {**drawn(), **tasks_on_pages(sys.argv[1])}\n"
    code += "print(json.dumps({name: digest(task) for name, task in reversed(tasks.items())}))"
    environment = {**os.environ, "PYTHONHASHSEED": "4242"}
    shown = subprocess.run(
        [sys.executable, "-c", code, str(DOCS)], capture_output=True, text=True, check=True, env=environment
    )
    return json.loads(shown.stdout)


@every_task
def test_scenes_are_the_same_in_another_process(name: str, digests_elsewhere: Any) -> None:
    space: dict[str, object] = {}
    exec(DIGEST, space)
    assert space["digest"](TASKS[name]) == digests_elsewhere[name]


@every_task
def test_text_is_lower_case_with_capitals_only_for_print(name: str) -> None:
    for scene in everything(name):
        for each in (*scene.questions, *scene.captions):
            for text in (each.text, *each.answers):
                assert TEXT.fullmatch(text), text
                assert text == " ".join(text.split()), text
            assert each.text[0].islower(), each.text
        for question in scene.questions:
            assert not question.answers[0].endswith((".", ",", "?", ":"))


@every_task
def test_questions_and_answers_are_short(name: str) -> None:
    for scene in everything(name):
        for question in scene.questions:
            asks, *_ = question.text.split(" (A)")  # the choices come on top
            assert len(asks.split()) <= WORDS_ASKED, question.text
            assert 1 <= tokens(question.answers[0]) <= TOKENS_ANSWERED, question.answers[0]
        for caption in scene.captions:
            assert len(caption.text.split()) <= WORDS_ASKED, caption.text
            assert 1 <= tokens(caption.answers[0]) <= TOKENS_CAPTIONED, caption.answers[0]


@every_task
def test_no_answer_is_a_good_blind_guess(name: str) -> None:
    """At most 35 %, or little more than its share where there are two or three answers in all."""
    for kind, group in asked(name).items():
        counts = Counter(question.answers[0] for question in group)
        most, count = counts.most_common(1)[0]
        assert count / len(group) < max(0.35, 1 / len(counts) + 0.08), (kind, most)


@every_task
def test_every_type_is_asked_and_no_other(name: str) -> None:
    groups = asked(name)
    assert set(groups) == set(TASKS[name].types)
    total = sum(map(len, groups.values()))
    assert {kind for kind, group in groups.items() if len(group) < 0.01 * total} == set()


@every_task
def test_about_half_of_the_questions_are_known_to_the_base_and_none_of_a_held_out_task(name: str) -> None:
    task, groups = TASKS[name], asked(name)
    assert set(task.known) < set(task.types)
    share = sum(len(groups[kind]) for kind in task.known) / sum(map(len, groups.values()))
    assert 0.35 <= share <= 0.65 if task.trained else share == 0


@every_trained_task
def test_every_scene_has_captions_in_other_words_than_its_questions(name: str) -> None:
    """No caption opens as one of its task's questions does, nor is it any task's question word for word."""

    def opening(each: Question) -> str:
        return " ".join(each.text.split()[:3])

    assert all(scene.captions for scene in everything(name))
    captions = [caption for scene in everything(name) for caption in scene.captions]
    questions = [question for scene in everything(name) for question in scene.questions]
    assert not {opening(each) for each in captions} & {opening(each) for each in questions}
    anywhere = {
        question.text for other in TASKS for scene in everything(other) for question in scene.questions
    }
    assert not {each.text for each in captions} & anywhere
