"""`optmerge tune`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optmerge.cli.asking import interval, percent, show_for
from optmerge.cli.options import AsJson, Base, Experts, MethodName, RecipeFile, Settings, build_recipe
from optmerge.errors import InputError, OutputError
from optmerge.evaluate.answering import CHAT_TOKENS

if TYPE_CHECKING:
    from collections.abc import Callable

    from optmerge.recipe import Recipe
    from optmerge.tune.study import Tried
    from optmerge.tune.tuning import Tuned

RECIPE, RESULT = "recipe.yaml", "result.json"
"""Files of a finished search in its folder."""
SHOWN = 10
"""Candidates in the printed table."""


def command(
    questions: Annotated[
        Path, typer.Option(help="File of questions, as for `optmerge eval`.", metavar="FILE")
    ],
    recipe: RecipeFile = None,
    base: Base = None,
    experts: Experts = None,
    method: MethodName = None,
    settings: Settings = None,
    out: Annotated[
        Path, typer.Option(help="Folder of the search; the same one goes on.", metavar="DIR")
    ] = Path("out/tune"),
    trials: Annotated[int, typer.Option(help="Candidates, at most.", min=1)] = 40,
    search: Annotated[
        list[str] | None,
        typer.Option(
            help="What is searched: method, strength, weights, components (a strength each), parameters; "
            "repeat. By default method and strength.",
            metavar="PART",
        ),
    ] = None,
    among: Annotated[
        list[str] | None, typer.Option(help="Only these methods; repeat.", metavar="NAME")
    ] = None,
    unlabelled: Annotated[
        bool,
        typer.Option(
            "--unlabelled",
            help="Look at no answers: each question's own expert, named by a router, says what is right.",
        ),
    ] = False,
    jobs: Annotated[int, typer.Option(help="Processes, each with models of its own.", min=1)] = 1,
    longest: Annotated[int, typer.Option(help="Tokens of an answer, at most.", min=1)] = CHAT_TOKENS,
    device: Annotated[str, typer.Option(help="Where models are merged and answer: cpu, cuda.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Seed of the search and of what is held out.", min=0)] = 0,
    as_json: AsJson = False,
) -> None:
    """Choose method and strength of a merge by questions; a third of them says how good the choice is.

    Writes the recipe of the best candidate into the folder of the search. Run again, a search goes on.

    Example: `optmerge tune recipe.yaml --questions questions.jsonl`
    """
    asked = build_recipe(recipe, base, experts, method, settings)

    from optmerge.cli.console import console
    from optmerge.engine.merge import plan
    from optmerge.engine.planning.request import check_device
    from optmerge.evaluate.question_files import read_questions
    from optmerge.tune.candidates import Space, methods_for, parts_of
    from optmerge.tune.labels import answered_by_experts
    from optmerge.tune.study import Search, locked
    from optmerge.tune.tuning import divided, tune

    check_device(device)
    parts = parts_of(search or ["method", "strength"])
    names = methods_for(asked, among or [] if "method" in parts else [asked.method.name])
    found = read_questions(questions)
    merged = [each for each in plan(asked).tensors if each.action == "merge"]
    if not merged:
        raise InputError("the recipe merges nothing", hint="look at `optmerge plan`")
    components = tuple(dict.fromkeys(each.component for each in merged))
    space = Space(asked, names, parts, components)
    show = show_for(_model_type(asked.base))
    said = len(found)
    if unlabelled:
        found = answered_by_experts(asked, found, show, longest=longest, device=device)
    chosen, held_out = divided(found, seed)
    told = Search(space, chosen, out, longest, seed, device, show)
    with locked(out):
        with _progress(trials) as report:
            tuned = tune(told, held_out, trials, jobs=jobs, report=report)
        result = {"right": "experts" if unlabelled else "answers", **tuned.plain()}
        _write(out, tuned.recipe, result)
        _plot(out, tuned)
    if as_json:
        print(json.dumps(result, indent=2))
        return
    if unlabelled:
        console().print(
            f"no answers were looked at: right is what a question's own expert says, of {len(found)} of "
            f"{said} questions; of the others the router isn't sure"
        )
    _print(tuned, out)


def _model_type(base: str) -> str | None:
    """`model_type` of the base's configuration; None where there is none."""
    from optmerge.checkpoints.hub import locate
    from optmerge.checkpoints.json_files import read_object

    path = locate(base) / "config.json"
    return read_object(path, "configuration").get("model_type") if path.is_file() else None


@contextmanager
def _progress(trials: int) -> Iterator[Callable[[Tried], None]]:
    """Shows the candidates that are done, and the best of them."""
    from rich.console import Console
    from rich.progress import Progress

    shown = Console(stderr=True)
    with Progress(console=shown, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("candidates", total=trials)
        best = 0.0

        def report(tried: Tried) -> None:
            nonlocal best
            best = max(best, tried.score if tried.whole else 0.0)
            bar.update(task, advance=1, description=f"candidates, best {percent(best)}")

        yield report


def _write(out: Path, recipe: Recipe, result: object) -> None:
    """The recipe and the result of a search, into its folder."""
    import yaml

    try:
        short = recipe.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        (out / RECIPE).write_text(yaml.safe_dump(short, sort_keys=False, allow_unicode=True), "utf-8")
        (out / RESULT).write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    except OSError as problem:
        raise OutputError("the result can't be written", where=out, got=problem.strerror) from None


def _plot(out: Path, tuned: Tuned) -> None:
    """Groups' scores of every candidate, those of the Pareto front in colour; where plotly is installed."""
    groups = list(tuned.best.scores)
    try:
        from plotly import graph_objects
    except ImportError:
        return
    if len(groups) < 2:
        return
    whole = [each for each in tuned.tried if each.whole]
    front = {each.number for each in tuned.front}
    columns = [
        {"label": group or "no group", "values": [100 * each.scores[group].mean() for each in whole]}
        for group in groups
    ]
    columns.append({"label": "mean", "values": [100 * each.score for each in whole]})
    colours = {
        "color": [each.number in front for each in whole],
        "colorscale": [[0, "#bbbbbb"], [1, "#0072b2"]],
    }
    figure = graph_objects.Figure(graph_objects.Parcoords(line=colours, dimensions=columns))
    figure.update_layout(title="Candidates by group (%); blue: the Pareto front")
    figure.write_html(out / "front.html", include_plotlyjs=True)


def _print(tuned: Tuned, out: Path) -> None:
    """The candidates that came first, and what the questions held out say."""
    from rich.table import Table

    from optmerge.cli.console import console, escape

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("candidate", overflow="fold")
    groups = list(tuned.best.scores)
    shown = [group for group in groups if len(groups) > 1]
    for column in ("score", *(escape(group) for group in shown), "front"):
        table.add_column(column, justify="right")
    front = {each.number for each in tuned.front}
    ranked = sorted((each for each in tuned.tried if each.whole), key=lambda each: (-each.score, each.number))
    for each in ranked[:SHOWN]:
        parts = [percent(float(each.scores[group].mean())) for group in shown]
        table.add_row(escape(_words(each)), percent(each.score), *parts, "*" if each.number in front else "")
    screen = console()
    chosen_on = sum(each.shape[1] for each in tuned.best.scores.values())
    given_up = sum(not each.whole for each in tuned.tried)
    screen.print(
        f"[bold]{len(tuned.tried)} candidates[/] on {chosen_on} questions ({given_up} given up early); "
        "* no other is better in every group"
    )
    screen.print(table)
    screen.print()
    held = Table(box=None, pad_edge=False, header_style="bold")
    held.add_column("on the questions held out")
    for column in ("score", "95 % interval", *(escape(group) for group in shown), "n"):
        held.add_column(column, justify="right")
    for name, score in tuned.held_out.items():
        parts = [percent(tuned.groups[name][group].score) for group in shown]
        held.add_row(name, percent(score.score), interval(score), *parts, str(score.n))
    screen.print(held)
    gain = tuned.gain
    between = f"{100 * gain.low:+.1f} to {100 * gain.high:+.1f}"
    screen.print(f"best − default: {100 * gain.mean:+.1f} points ({between}), p = {gain.p:.3f}")
    screen.print(f"next: optmerge merge {escape(out / RECIPE)} --out merged")


def _words(tried: Tried) -> str:
    """A candidate in a few words, as in `swudi × 0.85`."""
    candidate = tried.candidate
    strengths = dict(candidate.strengths)
    factor = "" if len(set(strengths.values())) > 1 else f" × {next(iter(strengths.values())):.2f}"
    parts = [f"{name} × {value:.2f}" for name, value in strengths.items() if not factor]
    parts += [f"{name}={value:g}" for name, value in candidate.parameters.items()]
    if set(candidate.weights) != {1.0}:
        parts.append("weights " + "/".join(f"{weight:.2f}" for weight in candidate.weights))
    return candidate.method + factor + (f" ({', '.join(parts)})" if parts else "")
