"""The tables of the modality benchmark, made of a line's scores and nothing else.

* complementarity: everything given, by what the questions need;
* loss: each modality alone, beside its own expert;
* ablation: one model, by what is given;
* families: the paper's row form, on the questions that need more than one modality.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

import numpy as np

from optmerge.bench.modalities.exam import Needs, families
from optmerge.bench.modalities.jobs import CLASSICAL, INPUTS, GivenTask
from optmerge.bench.modalities.rows import ALL, answers, average, best, gain, kept, takes
from optmerge.bench.modalities.templates import FAMILIES, NEEDS
from optmerge.bench.modalities.world import MODALITIES
from optmerge.bench.trials.grid import Entry, Grid
from optmerge.bench.trials.line_scores import LineScores, ModelScores
from optmerge.evaluate import statistics
from optmerge.evaluate.statistics import Estimate

EMPTY = Entry("–")
INTERVALS = "scores in %, ± half the 95 % interval; bold: the best merge of each column"
TITLES = {"image": "Vision", "audio": "Audio", "video": "Video"}
"""Experts as the paper calls them, in the order of its rows."""
_JOINT = tuple(needs for needs in NEEDS if len(needs) > 1)
Column = Callable[[ModelScores], Estimate | None]
Shares = Mapping[tuple[str, str], Mapping[str, Estimate]]
"""(model, rule) → modality → share of the expert's score."""


def complementarity(found: LineScores) -> Grid:
    """Scores of every model by what questions need, given every input that the model takes."""
    columns = {"+".join(needs): _scorer(needs) for needs in NEEDS}
    grid = _grid(
        f"everything given, {found.n} questions by what they need", found, {**columns, "average": average}
    )
    notes = (INTERVALS, "base: told nothing; expert: given its own modality", *found.notes)
    section = ((Entry("chance"), Entry(""), Entry(""), *_chances(found)),)
    return Grid(grid.title, grid.columns, grid.words, (section, *grid.sections), notes)


def loss(found: LineScores) -> Grid:
    """Scores of merges as shares of each expert's own score."""
    chosen = found.merges
    shares: Shares = {(each.model, each.rule): kept(each, found.experts) for each in chosen}
    columns = {own: _share(shares, own) for own in (*MODALITIES, ALL)}
    return _grid("one modality given and needed, % of its own expert's score", found, columns, chosen)


def ablation(found: LineScores, model: ModelScores) -> Grid:
    """Scores of one model with each subset of the inputs."""
    lines = []
    for inputs in INPUTS:
        if set(inputs) <= set(takes(model)):
            estimates = [_scorer(needs, inputs)(model) for needs in NEEDS]
            enough = [set(needs) <= set(inputs) for needs in NEEDS]
            scores = [_entry(one, bold) for one, bold in zip(estimates, enough, strict=True)]
            lines.append((Entry(GivenTask((), inputs).inputs), *scores))
    columns = ("given", *("+".join(needs) for needs in NEEDS))
    title = " ".join(filter(None, (_name(model), _scale(model), "by what is given")))
    notes = ("scores in %, ± half the 95 % interval; bold: all that is needed is given",)
    return Grid(title, columns, 1, (tuple(lines),), notes)


def row_form(found: LineScores) -> Grid:
    """Vision, Audio, Video, merges, NaiveMC and DAMC on the questions that need more than one modality."""
    columns = {str(family): _of_family(family) for family in FAMILIES} | {"average": _of_family()}
    experts = sorted(found.experts, key=lambda each: list(TITLES).index(each.model))
    chosen = [*experts, *found.merges]
    return _grid("questions that need more than one modality, by family", found, columns, chosen)


def headline(found: LineScores) -> list[str]:
    """Sentences: the best merge beside the best single expert, and what is left of the experts."""
    winner = best(found)
    if winner is None:
        return []
    sentences = []
    for needs in _JOINT:
        if compared := gain(winner, found.experts, needs):
            expert, difference = compared
            low, high = 100 * difference.low, 100 * difference.high
            sentences.append(
                f"{'+'.join(needs)}: {winner.model} is {100 * difference.mean:+.1f} points from the "
                f"{_name(expert)}, the best single one ([{low:+.1f}, {high:+.1f}], p = {difference.p:.2g})."
            )
    if shares := kept(winner, found.experts):
        shown = ", ".join(f"{own} {100 * share.score:.1f} %" for own, share in shares.items())
        sentences.append(f"Of the experts' own scores {winner.model} keeps: {shown}.")
    return sentences


def _grid(
    title: str, found: LineScores, columns: dict[str, Column], chosen: Sequence[ModelScores] | None = None
) -> Grid:
    """Models by columns; a rule between trained models and each kind of merges."""
    models = found.models if chosen is None else chosen
    estimates = {id(each): [column(each) for column in columns.values()] for each in models}
    merged = [estimates[id(each)] for each in models if each.kind == "merge"]
    tops = [
        max((one.score for one in column if one is not None), default=None)
        for column in zip(*merged, strict=True)
    ] or [None] * len(columns)
    sections: dict[tuple[bool, bool, str], list[tuple[Entry, ...]]] = {}
    for each in models:
        line = [Entry(_name(each)), Entry(each.rule if each.kind == "merge" else ""), Entry(_scale(each))]
        for one, top in zip(estimates[id(each)], tops, strict=True):
            bold = each.kind == "merge" and one is not None and one.score == top
            line.append(Entry("failed") if each.failures else _entry(one, bold))
        kind = each.kind == "merge", each.model in CLASSICAL, each.rule
        sections.setdefault(kind, []).append(tuple(line))
    heads = ("model", "rule", "scale", *columns)
    return Grid(title, heads, 2, tuple(map(tuple, sections.values())), (INTERVALS, *found.notes))


def _scorer(needs: Needs, inputs: Needs | None = None) -> Column:
    def estimate(model: ModelScores) -> Estimate | None:
        scores = answers(model, needs, inputs)
        return None if scores is None else statistics.estimate([scores])

    return estimate


def _of_family(family: str | None = None) -> Column:
    """Over the joint needs that have questions of the family, each counting the same; of all if None."""

    def estimate(model: ModelScores) -> Estimate | None:
        groups = []
        for needs in _JOINT:
            kinds, scores = families(needs), answers(model, needs)
            if scores is None:
                return None
            turns = np.array([kinds[turn % len(kinds)] for turn in range(scores.shape[1])])
            groups.append(scores if family is None else scores[:, turns == family])
        groups = [group for group in groups if group.shape[1]]
        return statistics.estimate(groups) if groups else None

    return estimate


def _share(shares: Shares, own: str) -> Column:
    return lambda model: shares[model.model, model.rule].get(own)


def _chances(found: LineScores) -> list[Entry]:
    """Scores of guesses, by needs, and on average; all models are asked the same questions."""
    for model in found.models:
        if model.metrics:
            chances = [model.metrics[str(GivenTask(needs, takes(model)))]["chance"] for needs in NEEDS]
            return [Entry(f"{100 * chance:.1f}") for chance in (*chances, fmean(chances))]
    return [EMPTY] * (len(NEEDS) + 1)


def _entry(estimate: Estimate | None, bold: bool) -> Entry:
    if estimate is None:
        return EMPTY
    return Entry(f"{100 * estimate.score:.1f}", f"{50 * (estimate.high - estimate.low):.1f}", bold)


def _name(model: ModelScores) -> str:
    if model.kind == "base":
        return "base (blind)"
    return f"{TITLES[model.model]} expert" if model.kind == "expert" else model.model


def _scale(model: ModelScores) -> str:
    return f"{model.scales[0]:g}" if model.scales else ""
