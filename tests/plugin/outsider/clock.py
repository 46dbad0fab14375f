"""Clocks: the time that two hands show."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

from optmerge.bench.tasks import SIDE, DrawnTask, Scene, Split, held_apart
from optmerge.evaluate.questions import Question
from optmerge.evaluate.scoring import metric, vqa

RGB = tuple[int, int, int]


@dataclass(frozen=True)
class Clock:
    """Everything that the picture and its question depend on.

    Args:
        minutes: shown time, in minutes after twelve; a multiple of 5 below 720.
        paper: colour around the clock.
        face: colour of the clock's face.
        centre: column and row in pixels.
        radius: of the face, in pixels.
    """

    minutes: int
    paper: RGB
    face: RGB
    centre: tuple[int, int]
    radius: int


def plan(rng: random.Random, split: Split) -> Clock:
    """A clock of the split: no two splits share one."""
    return held_apart(rng, split, _any_clock, key=lambda clock: clock)


def _any_clock(rng: random.Random) -> Clock:
    radius = rng.randint(30, 44)
    return Clock(
        minutes=5 * rng.randrange(144),
        paper=(rng.randint(90, 160), rng.randint(90, 160), rng.randint(90, 160)),
        face=(rng.randint(210, 255), rng.randint(210, 255), rng.randint(210, 255)),
        centre=(rng.randint(radius + 4, SIDE - radius - 4), rng.randint(radius + 4, SIDE - radius - 4)),
        radius=radius,
    )


def draw(clock: Clock) -> Scene:
    """The picture and what is asked about it."""
    image = Image.new("RGB", (SIDE, SIDE), clock.paper)
    pen = ImageDraw.Draw(image)
    (x, y), r = clock.centre, clock.radius
    pen.ellipse((x - r, y - r, x + r, y + r), fill=clock.face, outline="black", width=2)
    for hour in range(12):
        pen.line((*_at(clock, hour / 12, 0.82), *_at(clock, hour / 12, 0.95)), fill="black", width=2)
    pen.line((x, y, *_at(clock, clock.minutes / 720, 0.5)), fill="black", width=5)
    pen.line((x, y, *_at(clock, clock.minutes % 60 / 60, 0.78)), fill="black", width=2)
    answer = f"{clock.minutes // 60 or 12}:{clock.minutes % 60:02}"
    return Scene(image, (Question("what time does the clock show?", (answer,), "time"),), captions=())


def _at(clock: Clock, turn: float, reach: float) -> tuple[float, float]:
    """The point at a share of a full turn, clockwise from the top, and at a share of the radius."""
    angle, length = 2 * math.pi * turn, reach * clock.radius
    return clock.centre[0] + length * math.sin(angle), clock.centre[1] - length * math.cos(angle)


TASK = DrawnTask(
    name="clock",
    title="Clock",
    version=1,
    types=("time",),
    plan=plan,
    draw=draw,
    metrics={"exact_match": metric(vqa.exact_match)},
)
