"""A routed output measured: what each budget gives back of the experts, and how often the router is right.

    python -m perf.routed full --split validation --n 60 --budget 0.1 --budget 0.2 --out results/routed

Every model answers the same questions. `oracle` means that each question goes to its own expert's part, or to
the expert itself.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from PIL import Image

import optmerge
from optmerge.bench import lines, records, tasks
from optmerge.bench.lines.tiny import asking, tiny_models
from optmerge.engine.output.router import MERGE
from optmerge.evaluate.answering import BATCH, equally_long
from optmerge.evaluate.questions import Question
from optmerge.evaluate.routed import RoutedModel

REWORDED = (
    (r"^what is the (.*)\?$", r"name the \1."),
    (r"^what is (.*)\?$", r"name \1."),
    (r"^(?:read|name) (.*)\.$", r"what is \1?"),
    (r"^(?:find|locate|give the box of) (.*)\.$", r"where is \1?"),
    (r"^where is (.*)\?$", r"locate \1."),
    (r"^how many (.*?) (?:does|are|do) .*\?$", r"count the \1."),
    (r"^count (.*)\.$", r"how many of \1 are there?"),
    (r"^what (color|shape) is (.*)\?$", r"name the \1 of \2."),
    (r"^which (.*)\?$", r"name the \1."),
    (r"^how large is (.*?)\?", r"give the size of \1."),
    (r"^how much (.*)\?$", r"give how much \1."),
    (r"^(?:is|are) (.*)\?$", r"say if it is true: \1."),
)
"""Question templates in other words; the first that matches is used."""


def reworded(text: str) -> str:
    """A question in other words."""
    for pattern, words in REWORDED:
        if re.search(pattern, text):
            return re.sub(pattern, words, text)
    return f"say: {text}"


class Subject:
    """The questions of one line, and models that are asked them; pictures are seen once."""

    def __init__(self, line: str, split: tasks.Split, n: int, folder: Path) -> None:
        self.names = [name for name, task in tasks.registered().items() if task.trained]
        self.model, self.processor = tiny_models.load(line, folder)
        cache = asking.VisionCache()
        seen = [cache.seen(self.model, self.processor, tasks.get(name), split, n) for name in self.names]
        self.questions = [question for each in seen for question in each.questions]
        self.features = torch.cat([each.features for each in seen])
        self.owners = [name for name, each in zip(self.names, seen, strict=True) for _ in each.questions]

    def answers(self, model: Any, rows: Sequence[int]) -> dict[int, float]:
        """Row → score of a model's answer."""
        if not rows:
            return {}
        asked = [self.questions[row] for row in rows]
        said = asking.answers_to_seen(model, self.processor, asked, self.features[list(rows)])
        return {
            row: tasks.get(self.owners[row]).metric(text, self.questions[row])
            for row, text in zip(rows, said, strict=True)
        }

    def right(self, chosen: Sequence[str]) -> float:
        """Share of the questions for which their own expert was chosen."""
        return float(np.mean([part == own for part, own in zip(chosen, self.owners, strict=True)]))

    def chosen(self, routed: RoutedModel, questions: Sequence[Question], features: torch.Tensor) -> list[str]:
        """What the router chooses for questions about pictures."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        prompts = [self.processor.tokens(question.text) for question in questions]
        side = self.processor.grid * self.processor.merge
        found = [MERGE] * len(questions)
        for rows in equally_long([len(prompt) for prompt in prompts], BATCH):
            ids = torch.tensor([prompts[row] for row in rows])
            extra: dict[str, Any] = dict(self.processor.kinds(ids))
            pieces: Any = features[rows]
            if extra:
                extra["image_grid_thw"] = torch.tensor([[1, side, side]] * len(ids))
                pieces = tuple(pieces)
            seen = {"image": BaseModelOutputWithPooling(pooler_output=pieces)}
            read = routed.read(
                input_ids=ids, attention_mask=torch.ones_like(ids), mm_encoder_outputs=seen, **extra
            )
            for row, name in zip(rows, routed.router.choices(read), strict=True):
                found[row] = name
        return found


def by_part(
    subject: Subject, chosen: Sequence[str], model_of: Callable[[str], Any]
) -> tuple[list[float], float]:
    """Score of every question, and the share that went to its own expert; `model_of` is a context manager."""
    scores: dict[int, float] = {}
    for part in dict.fromkeys(chosen):
        with model_of(part) as model:
            scores |= subject.answers(model, [row for row, each in enumerate(chosen) if each == part])
    return [scores[row] for row in range(len(chosen))], subject.right(chosen)


def measure(line: str, split: tasks.Split, n: int, budgets: Sequence[float], expert: bool, out: Path) -> None:
    """Asks the merge, the routed outputs and the experts; appends a record of each."""
    zoo = Path(__file__).resolve().parents[1] / "zoo"
    members = lines.get(line).members(zoo, 0)
    hashes = lines.weights(members)
    with tempfile.TemporaryDirectory() as scratch:
        subject: Subject | None = None
        for budget in budgets:
            folder = Path(scratch) / f"{budget:g}"
            recipe = {
                "base": str(members.base),
                "experts": [{"model": str(path), "name": name} for name, path in members.experts.items()],
                "output": {"format": "routed", "budget": budget},
            }
            parts = optmerge.merge(recipe, folder).parts
            assert parts is not None
            first = subject is None
            subject = subject or Subject(line, split, n, folder)
            model = subject.model if first else tiny_models.load(line, folder)[0]

            note = partial(_note, out, line, split, n, subject, hashes)

            if first:
                rows = list(range(len(subject.questions)))
                found = subject.answers(model, rows)
                note("merge", [found[row] for row in rows], None)
            routed = RoutedModel.load(folder, model)

            @contextmanager
            def using(part: str, routed: RoutedModel = routed) -> Any:
                with routed.using(part):
                    yield routed.model

            cost: dict[str, Any] = {"budget": budget, "weights": parts.weights, "bytes": parts.nbytes}
            chosen = subject.chosen(routed, subject.questions, subject.features)
            always = RoutedModel(routed.model, replace(routed.router, threshold=0.0))
            named = subject.chosen(always, subject.questions, subject.features)
            settings = {"threshold": routed.router.threshold, "unsure": _unsure(chosen)}
            settings["first"] = subject.right(named)
            note("routed", *by_part(subject, chosen, using), cost | settings)
            if not (first and expert):
                continue
            note("parts, oracle", *by_part(subject, subject.owners, using), cost)
            _routing(subject, routed, always, note)

            @contextmanager
            def itself(name: str) -> Any:
                found = asking.load(
                    line, members.experts[name], base=members.base, device="cpu", dtype="float32"
                )
                yield found.model

            note("experts, oracle", *by_part(subject, subject.owners, itself))
            note("experts, router", *by_part(subject, named, itself))


def _routing(subject: Subject, routed: RoutedModel, always: RoutedModel, note: Callable[..., None]) -> None:
    """How the router does on what it is asked, in other words, and about foreign pictures."""
    questions, features = subject.questions, subject.features
    forms = {
        "as asked": questions,
        "reworded": [replace(each, text=reworded(each.text)) for each in questions],
        "please": [replace(each, text=f"please say, {each.text}") for each in questions],
        "bare": [replace(each, text=each.text.rstrip(".?")) for each in questions],
    }
    for form, asked in forms.items():
        first = subject.right(subject.chosen(always, asked, features))
        chosen = subject.chosen(routed, asked, features)
        wrong = np.mean([a not in (b, MERGE) for a, b in zip(chosen, subject.owners, strict=True)])
        note(f"router, {form}", [], first, {"wrong": float(wrong), "unsure": _unsure(chosen)})
    rng = np.random.default_rng(0)
    noise = [Image.fromarray(rng.integers(0, 256, (112, 112, 3), dtype=np.uint8)) for _ in questions[::5]]
    with torch.inference_mode():
        pixels = subject.processor.pixels(noise)
        model = routed.model.get_base_model()
        seen = torch.stack(list(model.get_image_features(**pixels, return_dict=True).pooler_output))
    chosen = subject.chosen(routed, questions[::5], seen)
    note("router, noise pictures", [], None, {"unsure": _unsure(chosen)})
    turned = torch.roll(features, len(questions) // len(subject.names), 0)
    chosen = subject.chosen(routed, questions, turned)
    shown = [subject.owners[row - len(questions) // len(subject.names)] for row in range(len(questions))]
    follows = float(np.mean([a == b for a, b in zip(chosen, shown, strict=True)]))
    note("router, another task's picture", [], None, {"follows_picture": follows, "unsure": _unsure(chosen)})


def _unsure(chosen: Sequence[str]) -> float:
    return float(np.mean([part == MERGE for part in chosen]))


def _note(
    out: Path,
    line: str,
    split: str,
    n: int,
    subject: Subject,
    hashes: Mapping[str, str],
    name: str,
    scores: Sequence[float],
    right: float | None,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    groups = {
        task: [score for score, own in zip(scores, subject.owners, strict=True) if own == task]
        for task in (subject.names if scores else ())
    }
    record = records.new(
        kind="routed/trial",
        config={"line": line, "split": split, "n": n, "model": name, "expert_set": 0, **more},
        seeds={},
        metrics={"right": right, "scores": groups},
        cost={},
        weights=dict(hashes),
    )
    records.append(record, out / f"{line}.jsonl")
    mean = np.mean([np.mean(own) for own in groups.values()]) if groups else float("nan")
    print(f"{line} {split} {name} {dict(more)}: {100 * mean:.1f}, router right {right}", flush=True)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("line", choices=("full", "lora"))
    parser.add_argument("--split", default="validation", choices=("validation", "test"))
    parser.add_argument("--n", type=int, default=60)
    parser.add_argument("--budget", type=float, action="append")
    parser.add_argument("--experts", action="store_true", help="ask the experts, too")
    parser.add_argument("--out", type=Path, default=Path("out/routed"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    measure(given.line, given.split, given.n, given.budget or [0.2], given.experts, given.out)


if __name__ == "__main__":
    main()
