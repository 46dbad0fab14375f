"""`optmerge eval`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Literal

import typer

from optmerge.cli.asking import interval, percent, show_for
from optmerge.errors import InputError, OutputError
from optmerge.evaluate.answering import BATCH, CHAT_TOKENS

if TYPE_CHECKING:
    from rich.console import Console

    from optmerge.evaluate.evaluation import Evaluation, Reply
    from optmerge.evaluate.question_files import FileQuestion


def command(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL… QUESTIONS.jsonl", help="Checkpoints or adapters, and a file of questions."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Write every answer to this file of JSON lines.", metavar="FILE")
    ] = None,
    longest: Annotated[int, typer.Option(help="Tokens of an answer, at most.", min=1)] = CHAT_TOKENS,
    batch: Annotated[int, typer.Option(help="Questions answered together, at most.", min=1)] = BATCH,
    device: Annotated[str, typer.Option(help="Where models answer: cpu, cuda, cuda:1.")] = "cpu",
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(help="Precision; auto: float32 on a CPU, elsewhere as it was saved."),
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="One list of models, for programs.")] = False,
) -> None:
    """Ask models the questions of a file and score their answers, with intervals and paired differences.

    Each line of the file is an object with `question`, `image` (or `audio`, `video`), `answer` or `answers`,
    and as needed `choices`, `group`, `metric`, `id`.

    Example: `optmerge eval base merged questions.jsonl`
    """
    from optmerge.checkpoints.hub import locate
    from optmerge.engine.planning.request import check_device
    from optmerge.evaluate.evaluation import evaluations
    from optmerge.evaluate.question_files import read_questions

    names, file = _split(models)
    questions = read_questions(file)
    if out is None and not any(question.answers for question in questions):
        raise InputError(
            "no question has an answer, so nothing can be scored",
            where=file,
            hint="keep what is said with --out",
        )
    check_device(device)
    for name in names:
        locate(name)
    precision = "float32" if dtype == "auto" and device == "cpu" else dtype
    with ExitStack() as stack:
        kept = None if out is None else stack.enter_context(_opened(out))
        said: dict[str, list[Reply]] = {}
        for name in names:
            said[name] = []
            for reply in _asked(
                name, questions, longest=longest, batch=batch, device=device, dtype=precision
            ):
                said[name].append(reply)
                if kept is not None:
                    print(json.dumps(reply.plain(name), ensure_ascii=False), file=kept, flush=True)
    found = evaluations(said)
    if as_json:
        print(json.dumps([each.plain() for each in found], indent=2))
    else:
        _print(found)


def _split(given: Sequence[str]) -> tuple[list[str], Path]:
    """The models, and the file of questions, which comes last."""
    *names, file = given
    if not names or not Path(file).is_file():
        raise InputError(
            "there is no file of questions",
            where="the last argument",
            got=file,
            expected="one model or more, then a file of JSON lines",
        )
    for name in names:
        if names.count(name) > 1:
            raise InputError("a model is given twice", got=name, hint="name every model once")
    return names, Path(file)


def _opened(out: Path) -> IO[str]:
    """The file of the answers, new."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        return out.open("x", encoding="utf-8")
    except FileExistsError:
        raise OutputError(
            "the file of answers is there already", where=out, hint="choose another --out"
        ) from None
    except OSError as problem:
        raise OutputError("the answers can't be written", where=out, got=problem.strerror) from None


def _asked(
    name: str, questions: Sequence[FileQuestion], *, longest: int, batch: int, device: str, dtype: str
) -> Iterator[Reply]:
    """What a model says, question by question; shows on a terminal how far it is."""
    from rich.console import Console
    from rich.progress import Progress

    from optmerge.cli.console import escape
    from optmerge.evaluate import chat
    from optmerge.evaluate.evaluation import replies

    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(escape(name), total=len(questions))
        model = chat.load(name, device=device, dtype=dtype)
        show = show_for(getattr(model.model.config, "model_type", None))
        for some in replies(model, questions, show, longest=longest, batch=batch):
            bar.advance(task, len(some))
            yield from some


def _print_parts(out: Console, found: Sequence[Evaluation]) -> None:
    """Of each routed output, which parts answered the questions of each group."""
    from optmerge.cli.console import escape

    for each in found:
        for group, parts in each.parts.items():
            shares = ", ".join(
                f"{part or 'the merge alone'} {percent(share)}" for part, share in parts.items()
            )
            words = f"{each.model}, {group or 'all questions'}: answered by {shares}"
            out.print(escape(words))


def _print(found: Sequence[Evaluation]) -> None:
    """A row a model, and a row a pair of models."""
    from rich.table import Table

    from optmerge.cli.console import console, escape

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("model", overflow="fold")
    groups = list(dict.fromkeys(group for each in found for group in each.groups))
    for column in ("score", "95 % interval", *(escape(group or "no group") for group in groups), "n"):
        table.add_column(column, justify="right")
    for each in found:
        score = each.score
        total = ("–", "", 0) if score is None else (percent(score.score), interval(score), score.n)
        parts = [percent(each.groups[group].score) for group in groups]
        table.add_row(escape(each.model), *total[:2], *parts, str(total[2]))
    out = console()
    out.print(table)
    _print_parts(out, found)
    pairs = [(a, b) for row, a in enumerate(found) for b in found[row + 1 :] if b.model in a.differences]
    if pairs:
        differences = Table(box=None, pad_edge=False, header_style="bold")
        differences.add_column("difference on the same questions", overflow="fold")
        for column in ("points", "95 % interval", "p"):
            differences.add_column(column, justify="right")
        for first, second in pairs:
            gap = second.differences[first.model]
            words = f"{escape(second.model)} − {escape(first.model)}"
            points = f"{100 * gap.mean:+.1f}", f"{100 * gap.low:+.1f} to {100 * gap.high:+.1f}"
            differences.add_row(words, *points, f"{gap.p:.3f}" if gap.p >= 0.001 else "<.001")
        out.print()
        out.print(differences)
