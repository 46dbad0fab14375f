"""The demo: three experts become one model; everyone takes the same test; one table and one picture."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from optmerge.bench import evaluation, models, records
from optmerge.bench.scoreboard import AVERAGE, BASE, Entrant, illustrate, table, verdict
from optmerge.bench.tasks import easy_vqa
from optmerge.errors import CheckpointError

if TYPE_CHECKING:
    from rich.console import Console

METHODS: Mapping[str, float | None] = {
    "average": None,
    "task_arithmetic": 0.5,
    "ties": 1.5,
    "tsv": 1.5,
    "wudi": 1.0,
    "optmerge": 1.0,
    "aswudi": 1.0,
}
"""Method → the scale of `SCALES` with the best average on the validation split (`choose_scales` finds it)."""
SCALES = (0.1, 0.3, 0.5, 0.7, 1.0, 1.5)


def default_zoo() -> Path:
    """`zoo/easy_vqa` of the source tree this package runs from."""
    return Path(__file__).parents[3] / "zoo" / "easy_vqa"


def run(
    out: Path = Path("out/demo"),
    *,
    zoo: Path | None = None,
    per_type: int | None = 300,
    methods: Mapping[str, float | None] = METHODS,
    seed: int = 0,
    console: Console | None = None,
) -> records.Record:
    """Merge the three easy-VQA experts with several methods and compare everyone on the package's test split.

    Args:
        out: gets `merged/METHOD/`, `answers.png` and the record; an earlier demo's merges are replaced.
        zoo: folder with `base`, `colour`, `shape` and `presence`.
        per_type: test questions of each type; None asks all 9,673.
        methods: method → scale; each is shown at its own default scale as well.
        seed: of the choice of questions, the pictures and the bootstrap.
        console: where the table goes.

    Raises:
        CheckpointError: the zoo lacks one of the four models.
    """
    from rich.console import Console

    started = time.perf_counter()
    console, folders = console or Console(), members(zoo or default_zoo())
    asked = easy_vqa.sample("test", per_type, seed=seed)
    with console.status("") as status:
        status.update(f"asking base and experts {len(asked)} questions each")
        entrants = [examine(name, folder, asked, seed=seed) for name, folder in folders.items()]
        for name, scale in methods.items():
            status.update(f"merging with {name}, then asking")
            for chosen in dict.fromkeys((None, scale)):
                entrants.append(compete(name, chosen, folders, out / "merged", asked, seed=seed))
    entrants = [replace(e, group="merge") if methods.get(e.name, 0) is None else e for e in entrants]
    best = max((e for e in entrants if e.group == "merge"), key=lambda e: e.average)
    console.print(table(entrants), verdict(entrants, best), highlight=False)
    image = illustrate(out / "answers.png", entrants, best, asked, seed=seed)
    wall = round(time.perf_counter() - started, 1)
    path = records.write(summary(entrants, folders, len(asked), seed=seed, wall_seconds=wall), out)
    console.print(f"[dim]picture  {image}\nrecord   {path}\n{wall} s in all[/dim]", highlight=False)
    return records.read(path)


def members(zoo: Path) -> dict[str, Path]:
    """Base and experts → their folders in the zoo."""
    folders = {name: zoo / name for name in (BASE, *easy_vqa.TYPES)}
    for name, folder in folders.items():
        if not (folder / "config.json").is_file():
            raise CheckpointError(
                f"The demo's model {name!r} is missing.",
                where=folder,
                expected="a checkpoint folder",
                hint="check out the repository's zoo/, or run `optmerge bench train --line easy-vqa`",
            )
    return folders


def compete(
    method: str,
    scale: float | None,
    folders: Mapping[str, Path],
    out: Path,
    asked: Sequence[easy_vqa.Question],
    *,
    seed: int,
) -> Entrant:
    """Merge the experts with a method, at its default scale for None, and let the result answer."""
    import optmerge

    options = {"name": method} if scale is None else {"name": method, "scale": scale}
    experts = [str(folders[name]) for name in easy_vqa.TYPES]
    recipe = {"base": str(folders[BASE]), "experts": experts, "method": options}
    folder = out / (f"{method}_default" if scale is None else method)
    with warnings.catch_warnings():  # the table shows what they would say
        warnings.simplefilter("ignore")
        seconds = optmerge.merge(recipe, folder, mode="overwrite").seconds
    entrant = examine(method, folder, asked, seed=seed)
    return replace(entrant, group="default" if scale is None else "merge", scale=scale, seconds=seconds)


def examine(name: str, folder: Path, asked: Sequence[easy_vqa.Question], *, seed: int = 0) -> Entrant:
    """Let the model in `folder` answer `asked`."""
    model, processor = models.load(folder)
    rows, pictures = easy_vqa.pictures(asked, processor)
    pairs = [(rows[question.image], question.text) for question in asked]
    replies = evaluation.answer(model, processor, pictures, pairs)
    scores = [easy_vqa.score(reply, question) for reply, question in zip(replies, asked, strict=True)]
    groups = easy_vqa.by_type(scores, asked)
    result = {kind: evaluation.accuracy(values, seed=seed) for kind, values in groups.items()}
    result[AVERAGE] = evaluation.macro(list(groups.values()), seed=seed)
    return Entrant(name, BASE if name == BASE else "expert", replies, result)


def choose_scales(
    out: Path,
    *,
    zoo: Path | None = None,
    methods: Iterable[str] = METHODS,
    per_type: int | None = 500,
    seed: int = 0,
) -> dict[str, dict[float, float]]:
    """Method → scale → average on validation questions; how the scales of `METHODS` were found."""
    folders, asked = members(zoo or default_zoo()), easy_vqa.sample("validation", per_type, seed=seed)
    return {
        name: {s: compete(name, s, folders, out, asked, seed=seed).average for s in SCALES}
        for name in methods
        if METHODS.get(name) is not None
    }


def summary(
    entrants: Sequence[Entrant],
    folders: Mapping[str, Path],
    questions: int,
    *,
    seed: int,
    wall_seconds: float,
) -> records.Record:
    """The record of a demo."""

    def label(e: Entrant) -> str:
        return f"{e.name} at default scale" if e.group == "default" else e.name

    scales = {e.name: e.scale for e in entrants if e.group == "merge"}
    cost = {f"merge_seconds {label(e)}": round(e.seconds, 3) for e in entrants if e.seconds}
    return records.new(
        kind="easy-vqa/demo",
        config={"questions": questions, "split": "test", "scales": scales},
        seeds={"demo": seed},
        metrics={label(e): {k: asdict(v) for k, v in e.accuracy.items()} for e in entrants},
        cost={"wall_seconds": wall_seconds, **cost},
        weights={name: records.weights_hash(folder) for name, folder in folders.items()},
    )
