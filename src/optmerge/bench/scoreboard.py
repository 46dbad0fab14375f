"""Who answered how much right: the table, the sentence and the picture that show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from optmerge.bench import picture
from optmerge.bench.evaluation import Accuracy
from optmerge.bench.tasks import easy_vqa

if TYPE_CHECKING:
    from rich.table import Table

BASE, AVERAGE = "base", "average"


@dataclass(frozen=True)
class Entrant:
    """A model that took the test.

    Attributes:
        name: what the table calls it.
        group: base, expert, default (merged at the method's fixed scale) or merge (at the chosen one).
        replies: its answers, in the order of the questions.
        accuracy: question type, and `average` over the types → score with its interval.
        scale: of the merge, None where there is none.
        seconds: wall time of the merge, 0 for what was trained.
    """

    name: str
    group: str
    replies: Sequence[str]
    accuracy: Mapping[str, Accuracy]
    scale: float | None = None
    seconds: float = 0.0

    @property
    def average(self) -> float:
        """Mean over the question types."""
        return self.accuracy[AVERAGE].mean


def table(entrants: Sequence[Entrant]) -> Table:
    """Percent with intervals; the best of each column is bold, an expert's own type underlined."""
    from rich import box
    from rich.table import Table

    columns = (*easy_vqa.TYPES, AVERAGE)
    shown = Table(
        box=box.SIMPLE_HEAD,
        title="easy-VQA test questions answered correctly, % (± half the 95 % interval)",
        title_justify="left",
        caption="scale: chosen on the validation split; last column: average at the default one",
        caption_justify="left",
    )
    for column in ("model", "scale"):
        shown.add_column(column)
    for column in columns:
        shown.add_column(f"{column}\nn={entrants[0].accuracy[column].n}", justify="right")
    shown.add_column("default\nscale", justify="right")
    rows = [e for e in entrants if e.group != "default"]
    best = {column: max(e.accuracy[column].mean for e in rows) for column in columns}
    default = {e.name: f"{100 * e.average:.1f}" for e in entrants if e.group == "default"}
    for place, entrant in enumerate(rows):
        cells = [_cell(entrant, column, best[column]) for column in columns]
        name = f"{entrant.name} expert" if entrant.group == "expert" else entrant.name
        last = place + 1 == len(rows) or rows[place + 1].group != entrant.group
        scale = "" if entrant.scale is None else f"{entrant.scale:g}"
        shown.add_row(name, scale, *cells, default.get(entrant.name, ""), end_section=last)
    return shown


def _cell(entrant: Entrant, column: str, best: float) -> str:
    score = entrant.accuracy[column]
    style = " ".join(["bold"] * (score.mean == best) + ["underline"] * (entrant.name == column))
    mean = f"[{style}]{100 * score.mean:.1f}[/]" if style else f"{100 * score.mean:.1f}"
    return f"{mean} [dim]±{50 * (score.high - score.low):.0f}[/dim]"


def verdict(entrants: Sequence[Entrant], best: Entrant) -> str:
    """One sentence: what merging gained over the best single model."""
    single = max((e for e in entrants if e.group in (BASE, "expert")), key=lambda e: e.average)
    base = next(e for e in entrants if e.group == BASE)
    return (
        f"Merged without data, [bold]{best.name}[/bold] averages {100 * best.average:.1f} %: "
        f"{100 * (best.average - single.average):+.1f} points on the best single model ({single.name}), "
        f"{100 * (best.average - base.average):+.1f} on the base."
    )


def illustrate(
    path: Path, entrants: Sequence[Entrant], best: Entrant, asked: Sequence[easy_vqa.Question], *, seed: int
) -> Path:
    """Draw the answers about a few test images, which are drawn at random, not for what was answered."""
    shown = [*(e for e in entrants if e.group in (BASE, "expert")), best]
    panels = []
    for group in easy_vqa.one_of_each_type(asked, images=4, seed=seed):
        questions = [asked[row] for row in group]
        answers = [
            [(e.replies[row], easy_vqa.score(e.replies[row], asked[row]) == 1.0) for e in shown]
            for row in group
        ]
        panels.append(picture.Panel(
            easy_vqa.image(questions[0]), [q.text for q in questions], [q.answer for q in questions], answers
        ))  # fmt: skip
    heads = [f"{e.name} expert" if e.group == "expert" else e.name for e in shown]
    heads[-1] = f"merged ({best.name})"
    return picture.draw(
        path, panels, heads, merged=len(heads) - 1, title="One base, three experts, one merged model"
    )
