"""The drawn half's answers are worked out again from the shapes by other means than the task's own."""

from __future__ import annotations

import random
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest

from optmerge.bench import tasks as registry
from optmerge.bench.tasks.drawn import vqa
from optmerge.bench.tasks.drawn._data import easy_vqa
from optmerge.bench.tasks.drawn._drawing.place_words import place_of
from optmerge.bench.tasks.drawn._drawing.shapes import COLOURS, KINDS, TINT

TASK: Any = registry.get("vqa")
SPLITS = ("train", "validation", "test")
NAME = rf"({'|'.join(COLOURS)}) ({'|'.join(KINDS)})"


def contents(kind: type[Any], split: str = "train", number: int = 600) -> list[Any]:
    found = (TASK.content(split, index) for index in range(number))
    return [content for content in found if isinstance(content, kind)]


def asked(content: Any) -> Any:
    return vqa.draw(content).questions


def answers(text: str, items: Any) -> set[Any]:
    """Every right answer, from the words of the question alone."""
    names = [(item.colour, item.kind) for item in items]
    names_of = {(item.colour, item.kind): item for item in items}
    pair = [names_of.get(found) for found in re.findall(NAME, text)]
    colours, kinds = (re.findall(rf"\b({'|'.join(words)})(?:e?s)?\b", text) for words in (COLOURS, KINDS))
    by_size = sorted(items, key=lambda item: item.size)
    ends = {"biggest": by_size[-1], "smallest": by_size[0]}
    if found := re.search(r"color is the (biggest|smallest) shape", text):
        return {ends[found[1]].colour}
    if found := re.search(r"what is the (biggest|smallest) shape", text):
        return {ends[found[1]].kind}
    if found := re.search(r"(left of|right of|above|below)", text):
        if len(pair) == 2:
            return {"yes" if beside(found[1], pair[1], pair[0]) else "no"}
        return {item.name for item in items if beside(found[1], pair[0], item)}
    if found := re.search(r"(bigger|smaller)", text):
        first, second = pair
        larger, lesser = (first, second) if first.size > second.size else (second, first)
        right = larger if found[1] == "bigger" else lesser
        return {"yes" if right is first else "no"} if "than" in text else {right.name}
    if found := re.search(r"more (.+) than (.+)\?", text):
        return {"yes" if number(found[1], items) > number(found[2], items) else "no"}
    if found := re.search(r"how many (.+?) (?:are|does)|count the (.+)\.", text):
        return {str(number(found[1] or found[2], items))}
    if "color" in text:
        return {item.colour for item in items if item.kind == kinds[0]}
    if text.startswith(("what", "which")):
        return {item.kind for item in items if item.colour == colours[0]}
    wanted = (colours or [None])[0], (kinds or [None])[0]
    there = any(all(w in (None, n) for w, n in zip(wanted, name, strict=True)) for name in names)
    return {"yes" if there else "no"}


def beside(side: Any, anchor: Any, item: Any) -> Any:
    return {
        "left of": item.x < anchor.x,
        "right of": item.x > anchor.x,
        "above": item.y < anchor.y,
        "below": item.y > anchor.y,
    }[side]


def number(plural: Any, items: Any) -> Any:
    first = plural.split()[0]
    return sum(first in ("shapes", item.colour, f"{item.kind}s", f"{item.kind}es") for item in items)


def test_every_answer_about_drawn_shapes_is_the_only_right_one() -> None:
    seen = Counter()
    for content in contents(vqa.Drawn, number=1500):
        for question in asked(content):
            assert {question.answers[0]} == answers(question.text, content.items), question
            seen[question.type] += 1
    assert set(seen) == set(TASK.types) and min(seen.values()) > 200


def test_half_the_scenes_are_real_pictures() -> None:
    assert 250 < len(contents(vqa.Real)) < 350


@pytest.mark.parametrize("split", SPLITS)
def test_real_questions_are_the_data_sets_own_of_the_same_split(split: str) -> None:
    rows = {(row.image, row.text, row.answer, row.type) for row in easy_vqa.questions(split)}
    for content in contents(vqa.Real, split, 300):
        for question in asked(content):
            assert (content.image, question.text, question.answers[0], question.type) in rows


def test_the_caption_of_a_real_picture_says_where_its_shape_is() -> None:
    """What differs from the picture's edge has its mean in the named third, or just beside it."""
    for content in contents(vqa.Real, number=200):
        scene = vqa.draw(content)
        pixels = np.asarray(scene.image, dtype=float)
        edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        rows, columns = np.nonzero(np.abs(pixels - np.median(edge, axis=0)).max(-1) > 20)
        place = " ".join(scene.captions[1].answers[0].split()[2:])
        near = {place_of(columns.mean() + dx, rows.mean() + dy) for dx in (-6, 0, 6) for dy in (-6, 0, 6)}
        assert place in near


def test_shapes_lie_apart_in_the_picture_and_show_their_colour() -> None:
    for content in contents(vqa.Drawn):
        picture = vqa.draw(content).image
        for item in content.items:
            left, top, right, bottom = item.box
            assert min(left, top) >= 2 and max(right, bottom) <= registry.SIDE - 2
            for other in content.items:
                apart = item is other or left >= other.box[2] or right <= other.box[0]
                assert apart or top >= other.box[3] or bottom <= other.box[1]
            ring = item.kind == "ring"
            pixel = picture.getpixel((int(item.x), top + 3 if ring else int(item.y + item.size / 8)))
            assert pixel == item.rgb
            assert all(abs(a - b) <= TINT for a, b in zip(pixel, COLOURS[item.colour], strict=True))


def test_big_shapes_are_at_least_1_3_times_as_wide_as_small_ones() -> None:
    for content in contents(vqa.Drawn):
        sizes = [item.size for item in content.items]
        small, big = [size for size in sizes if size < vqa.BIG], [size for size in sizes if size >= vqa.BIG]
        assert not small or not big or min(big) >= 1.3 * max(small)
        assert min(sizes) >= 20


def test_no_two_splits_share_a_combination_of_shapes() -> None:
    owner = {}
    for split in SPLITS:
        for content in contents(vqa.Drawn, split, 3000):
            key = tuple(sorted((item.kind, item.colour, item.size >= vqa.BIG) for item in content.items))
            assert owner.setdefault(key, split) == split
    assert min(Counter(owner.values()).values()) > 700


def test_yes_and_no_are_equally_likely_for_every_wording() -> None:
    answers_of = {}
    for content in contents(vqa.Drawn, number=4000):
        for question in asked(content):
            if question.answers[0] in ("yes", "no"):
                wording = re.sub(rf"\b({'|'.join((*COLOURS, *KINDS, 'shape'))})(e?s)?\b", "", question.text)
                wording = " ".join(
                    re.sub(r"left of|right of|above|below|\ban?\b|bigger|smaller", "", wording).split()
                )
                answers_of.setdefault(wording, Counter())[question.answers[0]] += 1
    for wording, counts in answers_of.items():
        share = counts["yes"] / counts.total()
        assert abs(share - 0.5) < 4 * 0.5 / counts.total() ** 0.5, (wording, counts)


def test_the_same_seed_asks_the_same_and_another_asks_something_else() -> None:
    content = contents(vqa.Drawn, number=20)[0]
    again = vqa.Drawn(content.items, content.style, content.seed)
    other = vqa.Drawn(content.items, content.style, random.Random(content.seed).getrandbits(32))
    assert asked(content) == asked(again) != asked(other)
    assert vqa.draw(content).image.tobytes() == vqa.draw(other).image.tobytes()
