"""The stages of the tiny lines, as data: the passes that made the shipped models.

A line first trains a base in several passes, then an expert for each task from that base, and a mixture of
all tasks. A name such as `base-1` is an earlier pass of the stage `base`: every pass has its own learning
rate schedule and goes on where the pass before ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from optmerge.bench.training.conversations import (
    SHEETS,
    Curriculum,
    answering,
    everything,
    expert,
    finding,
    mixture,
    reading,
    relating,
    trained_tasks,
)
from optmerge.bench.training.learning import Stage
from optmerge.errors import InputError, did_you_mean

BASE, MIXTURE = "base", "mixture"
"""Names of the stages that finish the base and the mixture."""
Role = Literal["base", "expert", "mixture"]
Regime = Literal["gentle", "far"]


@dataclass(frozen=True)
class LineStage:
    """A stage of a line.

    Args:
        role: what the stage makes: the `base` or a part of its training, an `expert`, or the `mixture`. The
            base starts from a new model, the others from the base; a stage goes on where an earlier one of
            the same role ended, but experts do not depend on each other.
        settings: settings of the Trainer.
        curriculum: what pictures and turns are drawn; None for sheets whose patches are labelled.
        seed: added to the seed of the training, so that two stages of a training can draw different pictures.
        pass_of: the stage of which this is an earlier pass; who asks for that stage gets this one, too.
        teacher: line and stage whose language model is taken over and whose image tokens are the targets.
    """

    role: Role
    settings: Stage
    curriculum: Curriculum | None = None
    seed: int = 0
    pass_of: str = ""
    teacher: tuple[str, str] | None = None

    def recorded(self) -> dict[str, Any]:
        """What a training record says of the stage: the Trainer's settings and the other fields."""
        others = {name: value for name, value in asdict(self).items() if name != "settings"}
        return asdict(self.settings) | others


_COLUMNS = (SHEETS, "vqa", "geometry", "chart", "ocr", "grounding")
_SIGHT = Stage(
    pictures=96_000, learning_rate=3e-3, matrix_rate=0.02, part="sight", keep_every=0, look_every=0
)
_LANGUAGE = Stage(pictures=128_000, learning_rate=3e-3, matrix_rate=0.02, sight_rate=0.1)
_SHEETS = replace(_LANGUAGE, look_every=0)
_PASS = replace(_LANGUAGE, look_every=125)
_FULL = Stage(pictures=48_000, learning_rate=1e-3, batch=32, pull=1.5, part="layers")
_LORA = Stage(pictures=56_000, learning_rate=2e-3, batch=32, pull=1.0, part="adapter", rank=96, aimed=256)


def stages_of(line: str, regime: Regime = "gentle") -> dict[str, LineStage]:
    """Name → stage of a line, in the order in which they are trained.

    Args:
        line: a line whose models are trained here.
        regime: how the experts are trained. `gentle` draws experts back to the base; the shipped ones were
            trained so. `far` does not, learns at higher rates from fewer pictures, and gives each task a rate
            and a number of steps of its own, so that some experts end several times as far from the base as
            others.

    Raises:
        InputError: the line or the regime is unknown.
    """
    if line not in _STAGES:
        hint = did_you_mean(line, _STAGES)
        raise InputError(f"there are no stages to train for line {line!r}", where="line", hint=hint)
    if regime not in get_args(Regime):
        hint = did_you_mean(regime, get_args(Regime))
        raise InputError(f"unknown regime {regime!r}", where="regime", hint=hint)
    base, experts, mixtures = _STAGES[line]()
    if regime == "far":
        experts = {name: _far(experts[name], *rates) for name, rates in _FAR[line].items()}
    return {
        **base,
        **{name: LineStage("expert", settings, expert(name)) for name, settings in experts.items()},
        **mixtures,
    }


Parts = tuple[dict[str, LineStage], dict[str, Stage], dict[str, LineStage]]
"""Stages of the base, the experts' settings by task, stages of the mixture."""


def _full() -> Parts:
    """The full line; its language model comes from the lora line."""
    known = answering(1.0)
    base = {
        "sight": LineStage("base", _SIGHT),
        "aligning": LineStage(
            "base", replace(_SIGHT, pictures=64_000), known, seed=7, teacher=("lora", "answering")
        ),
        "answering": LineStage("base", replace(_LANGUAGE, pictures=96_000), known),
        "base-1": _base(replace(_LANGUAGE, pictures=48_000), (2.0, 0.3, 0.7, 0.8, 0.12, 0.9), pass_of=BASE),
        BASE: _base(replace(_PASS, pictures=24_000), (2.6, 0.1, 0.5, 0.1, 0.1, 0.9)),
    }
    experts = {
        **dict.fromkeys(trained_tasks(), _FULL),
        "vqa": replace(_FULL, pictures=16_000, learning_rate=5e-4),
        "geometry": replace(_FULL, pictures=32_000),
        "chart": replace(_FULL, pictures=96_000),
        "ocr": replace(_FULL, pull=2.0),
        "grounding": replace(_FULL, pull=2.0),
    }
    settings = replace(_FULL, pictures=128_000, matrix_rate=0.01, pull=0.0)
    return base, experts, {MIXTURE: LineStage("mixture", settings, mixture())}


def _lora() -> Parts:
    """The lora line; the later passes give its base what charts need to be read."""
    base = {
        "sight": LineStage("base", _SIGHT),
        "reading": LineStage("base", replace(_LANGUAGE, pictures=144_000), reading(0.1)),
        "finding": LineStage("base", replace(_SHEETS, pictures=32_000), finding()),
        "relating": LineStage("base", replace(_SHEETS, pictures=64_000), relating()),
        "answering": LineStage("base", _LANGUAGE, answering(0.5)),
        "base-1": _base(replace(_LANGUAGE, pictures=72_000), (2.0, 0.3, 0.7, 0.8, 0.2, 0.9), pass_of=BASE),
        "base-2": _base(replace(_PASS, pictures=32_000), (2.6, 0.1, 0.6, 0.2, 0.13, 0.9), pass_of=BASE),
        "base-3": _base(replace(_PASS, pictures=24_000), (2.6, 0.1, 0.9, 0.35, 0.25, 0.9), pass_of=BASE),
        "base-4": _charts(
            _base(replace(_PASS, pictures=24_000), (1.5, 0.1, 0.9, 2.0, 0.25, 0.7), pass_of=BASE)
        ),
        "base-5": _charts(
            _base(replace(_PASS, pictures=16_000), (1.5, 0.1, 0.5, 1.2, 0.35, 0.6), pass_of=BASE)
        ),
        "base-6": _base(
            replace(_PASS, pictures=12_000, matrix_rate=0.015), (1.5, 0.1, 0.2, 0.38, 0.17, 0.3), pass_of=BASE
        ),
        BASE: _base(replace(_PASS, pictures=8_000, matrix_rate=0.015), (1.5, 0.1, 0.2, 0.1, 0.08, 0.02)),
    }
    experts = {
        **dict.fromkeys(trained_tasks(), _LORA),
        "vqa": replace(_LORA, pictures=20_000, learning_rate=1e-3),
        "chart": replace(_LORA, pictures=160_000, pull=0.6),
        "ocr": replace(_LORA, pictures=64_000, pull=1.1),
        "grounding": replace(_LORA, pictures=24_000, pull=1.5),
    }
    first = replace(_LORA, pictures=128_000, rank=64, aimed=0, matrix_rate=0.01, pull=0.0)
    second = replace(first, pictures=80_000, matrix_rate=0.005)
    mixtures = {
        "mixture-1": LineStage("mixture", first, mixture(), pass_of=MIXTURE),
        MIXTURE: LineStage("mixture", second, mixture(), seed=1),
    }
    return base, experts, mixtures


_STAGES = {"full": _full, "lora": _lora}
_FAR = {
    "full": {
        "vqa": (2_500, 1e-3),
        "geometry": (4_000, 2e-3),
        "chart": (8_000, 3e-3),
        "ocr": (6_000, 5e-3),
        "grounding": (5_000, 3e-3),
    },
    "lora": {
        "vqa": (2_500, 1e-3),
        "geometry": (4_000, 2e-3),
        "chart": (6_000, 6e-3),
        "ocr": (5_000, 4e-3),
        "grounding": (4_000, 3e-3),
    },
}
"""Line → task → pictures and learning rate of a far expert."""


def _far(settings: Stage, pictures: int, rate: float) -> Stage:
    """The settings without what draws an expert back to the base."""
    return replace(
        settings,
        pictures=pictures,
        learning_rate=rate,
        pull=0.0,
        weight_decay=0.0,
        keep_every=50,
        look_every=100,
    )


def _base(settings: Stage, shares: tuple[float, ...], *, pass_of: str = "") -> LineStage:
    """A pass over a little of everything, with such shares that every expert has 20 points to add.

    VQA is learnt soonest. A base that could compare and relate shapes would leave its expert nothing to add.

    Args:
        settings: settings of the Trainer.
        shares: shares of the pictures, in the order of `_COLUMNS`.
        pass_of: the stage of which this is an earlier pass.
    """
    named = dict(zip(_COLUMNS, shares, strict=True))
    curriculum = everything(named, without={"vqa": ("relation", "comparison")})
    return LineStage("base", settings, curriculum, pass_of=pass_of)


def _charts(stage: LineStage) -> LineStage:
    """A pass in which the tower learns more: of charts the types known early alone, and more captions."""
    assert stage.curriculum is not None
    types: Mapping[str, tuple[str, ...]] = stage.curriculum.types
    few = {**types, "chart": trained_tasks()["chart"].known}
    curriculum = replace(stage.curriculum, types=few, captions=2)
    return replace(stage, settings=replace(stage.settings, sight_rate=0.3), curriculum=curriculum)
