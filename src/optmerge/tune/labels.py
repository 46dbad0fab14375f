"""Answers for questions that nobody has answered: a question's own expert, which a router names, says them.

Of a routed output the router alone is used. Where it isn't sure the question is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from optmerge.engine.merge import Options, merge
from optmerge.errors import InputError, RecipeError
from optmerge.evaluate import chat
from optmerge.evaluate.evaluation import Show, replies
from optmerge.evaluate.question_files import FileQuestion
from optmerge.recipe import Recipe


def answered_by_experts(
    asked: Recipe,
    questions: Sequence[FileQuestion],
    show: Show,
    *,
    longest: int,
    device: str = "cpu",
) -> list[FileQuestion]:
    """The questions of which the router is sure, each with its expert's answer as the accepted one.

    Args:
        asked: the recipe whose experts answer; the threshold of a routed output counts.
        questions: of a file; answers that they have are not looked at.
        show: makes a question a model's inputs.
        longest: tokens at which an answer is cut off.
        device: of torch, where models are merged and answer.

    Raises:
        InputError: no router can be made of these experts, or it is sure of no question.
    """
    owners = _owners(asked, questions, show, device)
    labelled: dict[str, FileQuestion] = {}
    for expert, name in zip(asked.experts, asked.expert_names(), strict=True):
        own = [each for each in questions if owners[each.where] == name]
        if own:
            model = chat.load(expert.model, device=device, dtype="float32")
            for window in replies(model, own, show, longest=longest):
                labelled |= {
                    each.question.where: replace(each.question, answers=(each.said,)) for each in window
                }
    if not labelled:
        raise InputError(
            "the router is sure of no question, so no expert can answer in the user's place",
            got=f"{len(questions)} questions",
            hint="give the lines answers",
        )
    return [labelled[each.where] for each in questions if each.where in labelled]


def _owners(asked: Recipe, questions: Sequence[FileQuestion], show: Show, device: str) -> dict[str, str]:
    """Place of a question → name of its expert; empty where the router isn't sure."""
    recipe = asked.plain()
    if asked.output.format != "routed":
        recipe["output"] = {"format": "routed"}
    with TemporaryDirectory() as folder:
        try:
            merge(recipe, Path(folder) / "routed", Options(device=device))
        except RecipeError as problem:
            if problem.where not in ("output", "output.budget"):
                raise
            raise InputError(
                f"without answers a router must tell whose question is whose: {problem.what}",
                got=problem.got,
                expected=problem.expected,
                hint="give the questions answers",
            ) from None
        model = chat.load(Path(folder) / "routed", device=device, dtype="float32")
        assert model.routed is not None
        chosen = model.routed.choices([show(model, each) for each in questions])
    return {question.where: name for question, name in zip(questions, chosen, strict=True)}
