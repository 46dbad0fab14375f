"""The report of a merge: its provenance, and an analysis where there is one, as tables and sentences."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from optmerge.analysis.totals import layer_of, module_of, stack_of
from optmerge.checkpoints.json_files import read_object
from optmerge.engine.changes import changes_from, percent
from optmerge.engine.output.folder import PROVENANCE
from optmerge.engine.running.scales import scale_words
from optmerge.errors import CheckpointError, InputError, OutputError
from optmerge.report.blocks import Block, Cell, Code, Items, Report, Section, Table, Text, words

ANALYSIS = "analysis.json"
"""Name under which a report looks for an analysis in the merge's folder."""

_AGAIN = "make it again: optmerge analyze RECIPE --out FILE"

Json = Mapping[str, Any]


@dataclass(frozen=True)
class MergeRecord:
    """What is known of a merge.

    Args:
        name: of its folder.
        provenance: its `optmerge.json`.
        analysis: as `optmerge analyze --json` prints it; None without one.
        weight_bytes: size of its weights.
    """

    name: str
    provenance: Json
    analysis: Json | None
    weight_bytes: int

    def plain(self) -> dict[str, Any]:
        """JSON-ready data: the records as they are."""
        return {
            "kind": "merge",
            "name": self.name,
            "weight_bytes": self.weight_bytes,
            "provenance": dict(self.provenance),
            "analysis": None if self.analysis is None else dict(self.analysis),
        }


def read_merge(folder: Path, analysis: Json | None = None) -> MergeRecord:
    """What a merge's folder holds, and its analysis.

    Args:
        folder: of a finished merge.
        analysis: of the merge; that of the folder where it is None, if there is one.

    Raises:
        InputError: no finished merge, a file that can't be understood, or an analysis of another merge.
    """
    if not (folder / PROVENANCE).is_file():
        raise OutputError(
            "the folder holds neither a finished merge nor records of a benchmark",
            where=folder,
            expected=f"{PROVENANCE}, or trials.jsonl in it or below",
            hint="give the folder that optmerge merge wrote, or that of bench run",
        )
    provenance = read_object(folder / PROVENANCE, "provenance")
    if analysis is None and (folder / ANALYSIS).is_file():
        analysis = read_object(folder / ANALYSIS, "analysis")
    if analysis is not None:
        _check_same(provenance, analysis, folder)
    weights = [path for path in sorted(folder.glob("*.safetensors")) if path.is_file()]
    return MergeRecord(
        folder.resolve().name, provenance, analysis, sum(path.stat().st_size for path in weights)
    )


def _check_same(provenance: Json, analysis: Json, folder: Path) -> None:
    ours, theirs = provenance.get("fingerprint"), analysis.get("fingerprint")
    if not isinstance(ours, str) or not isinstance(theirs, str) or ours.rpartition("-")[0] != theirs:
        raise InputError(
            "the analysis is of another merge",
            where=folder,
            got=theirs,
            expected=ours,
            hint=f"analyze the recipe and the inputs of this merge, or {_AGAIN}",
        )


def merge_report(record: MergeRecord) -> Report:
    """The report.

    Raises:
        CheckpointError: the records don't have the form that this program writes.
    """
    try:
        return _report(record)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as problem:
        raise CheckpointError(
            "the records of the merge can't be understood",
            where=record.name,
            got=f"{type(problem).__name__}: {problem}",
            expected=f"{PROVENANCE} and {ANALYSIS} as this version writes them",
            hint="merge and analyze again with this version",
        ) from None


def _report(record: MergeRecord) -> Report:
    found, analysis = record.provenance, record.analysis
    method = found["methods"][0]
    counts = found["counts"]
    sections = [
        Section("What stands out", tuple(_findings(record))),
        Section("What from what", (_inputs(record),)),
        Section("Coverage", (_coverage(found["tensors"]), _changes(found))),
        Section("Scales", tuple(_scales(found))),
    ]
    if analysis is not None:
        sections += [
            Section("Layers and modules", tuple(_maps(analysis))),
            Section("Experts among each other", tuple(_pairs(analysis))),
            Section("Ranks", (_energy(analysis), _ranks(analysis))),
        ]
    sections += [
        Section("Cost", (_cost(record),)),
        Section("Recipe", (Code(yaml.safe_dump(found["recipe"], sort_keys=False, allow_unicode=True)),)),
        Section("Identities and versions", (_identities(found),)),
    ]
    lead = (
        f"{len(found['experts'])} experts merged into {found['base']['model']} by {method['name']}: "
        f"{counts['merge']} tensors merged, {counts['copy']} copied."
    )
    return Report(f"Merge report: {record.name}", lead, tuple(sections))


def _findings(record: MergeRecord) -> Iterable[Block]:
    warnings = list(record.provenance["warnings"])
    if record.analysis is None:
        yield Text(
            "This merge has not been analyzed. For interference, ranks and maps of its layers: "
            f"optmerge analyze RECIPE --out {record.name}/{ANALYSIS}, then make the report again."
        )
    else:
        yield Items(tuple(map(str, record.analysis["findings"])))
    yield Items(tuple(map(str, warnings)), warning=True) if warnings else Text("No warnings.")


def _inputs(record: MergeRecord) -> Table:
    """A row for each expert: what it is, how far it went, what the merge does to it."""
    analysis = record.analysis
    columns = ["expert", "model", "kind", "weight", "size"]
    if analysis is not None:
        columns += ["moved", "× median", "cosine with the merge", "interference"]
    rows = []
    for each in record.provenance["experts"]:
        cells = [
            words(each["name"]),
            words(each["model"]),
            words(each["kind"]),
            Cell(_weight(each["weight"])),
            Cell(_size(each["bytes"])),
        ]
        if analysis is not None:
            own = analysis["total"]["experts"][each["name"]]
            cells += [
                Cell(share(own["delta"]["moved"])),
                Cell(number(analysis["lengths"][each["name"]])),
                Cell(number(own["cosine"])),
                _hot(own["interference"]),
            ]
        rows.append(tuple(cells))
    caption = "The experts" if analysis is None else f"The experts. {_INTERFERENCE}"
    return Table(caption, tuple(columns), tuple(rows))


_INTERFERENCE = (
    "Interference, ‖(sM − τ)τᵀ‖/‖ττᵀ‖: 0 where the merge does to the expert's inputs what the expert does, "
    "1 where it is as far from that as the base"
)


def _coverage(tensors: Json) -> Table:
    """How many tensors had which fate, and why."""
    fates = Counter(
        (
            f"merged by {fate['method']}" if fate["action"] == "merge" else _COPIED[fate["action"]],
            str(fate["source"]) if fate["action"] != "merge" else "",
            str(fate["reason"]),
        )
        for fate in tensors.values()
    )
    rows = tuple(
        (words(what), words(source or "–"), words(reason), Cell(f"{count:,}"))
        for (what, source, reason), count in fates.most_common()
    )
    return Table("Every tensor of the base", ("what happened", "source", "why", "tensors"), rows)


_COPIED = {"copy": "copied", "alias": "tied, not written"}


def _changes(found: Json) -> Table:
    """How far each expert moved each component, and whether that is in the merge."""
    rows = tuple(
        (
            words(each.expert),
            words(each.component),
            words(", ".join(each.kinds)),
            words("merged" if each.kept else "left out"),
            Cell(percent(each)),
            Cell(f"{each.changed} of {each.tensors}"),
        )
        for each in changes_from(found["changes"])
        if each.changed
    )
    columns = ("expert", "component", "kinds", "in the merge", "moved", "tensors changed")
    return Table("What the experts changed, ‖τ‖/‖W₀‖; what they didn't change isn't listed", columns, rows)


def _scales(found: Json) -> Iterable[Block]:
    """How the scales were chosen, and where each lies."""
    for use, chosen in zip(found["methods"], found["scales"], strict=True):
        if use is None:
            continue
        if chosen is None:
            yield Text(f"{use['name']}: scale {number(use['scale'], 3)}, as the recipe or the method says.")
            continue
        caution = "" if chosen["caution"] == 1 else f", of which {share(chosen['caution'])} for caution"
        yield Text(f"{use['name']}: {scale_words(chosen)}{caution}.")
    scales = {name: fate["scale"] for name, fate in found["tensors"].items() if "scale" in fate}
    if scales:
        places = [
            {"name": name, "layer": layer_of(name), "module": module_of(name), "scale": each}
            for name, each in scales.items()
        ]
        yield from _map("Scale of each tensor", places, lambda each: each["scale"], number, folded=True)


def _maps(analysis: Json) -> Iterable[Block]:
    """Layer × module: how far the merge moves the base, and its interference."""
    tensors = analysis["tensors"]
    names = analysis["experts"]
    yield from _map(
        "How far the merge moves the base, ‖sM‖/‖W₀‖", tensors, lambda each: each["merged"]["moved"], share
    )
    yield from _map("Interference, mean of the experts", tensors, lambda each: _mean(each, names), number)
    for name in names:

        def interference(each: Json, name: str = name) -> float | None:
            value: float | None = each["experts"][name]["interference"]
            return value

        yield from _map(f"Interference with {name}", tensors, interference, number, folded=True)
    lost = [each["merged"]["lost_to_bf16"] for each in tensors]
    if any(each for each in lost if each is not None):
        yield from _map(
            "Share of the merge's change that bfloat16 rounds away",
            tensors,
            lambda each: each["merged"]["lost_to_bf16"],
            share,
            folded=True,
        )


def _mean(tensor: Json, names: Sequence[str]) -> float | None:
    known = [value for name in names if (value := tensor["experts"][name]["interference"]) is not None]
    return sum(known) / len(known) if known else None


def _map(
    caption: str,
    tensors: Sequence[Json],
    take: Callable[[Json], float | None],
    show: Callable[[float | None], str],
    *,
    folded: bool = False,
) -> Iterable[Table]:
    """A table of layers and modules; the mean where several tensors meet in one place."""
    places: dict[tuple[tuple[str, int], str], list[float]] = defaultdict(list)
    for each in tensors:
        value = take(each)
        if value is not None and each["layer"] is not None:
            places[(stack_of(each["name"]), each["layer"]), each["module"]].append(value)
    if not places:
        return
    means = {place: sum(values) / len(values) for place, values in places.items()}
    layers, modules = sorted({layer for layer, _ in means}), sorted({module for _, module in means})
    one_stack = len({stack for stack, _ in layers}) == 1
    low, high = min(means.values()), max(means.values())
    rows = tuple(
        (
            words(f"layer {layer[1]}" if one_stack else f"{layer[0]} {layer[1]}"),
            *(_heated(means.get((layer, module)), low, high, show) for module in modules),
        )
        for layer in layers
    )
    yield Table(caption, ("", *modules), rows, folded)


def _heated(value: float | None, low: float, high: float, show: Callable[[float | None], str]) -> Cell:
    """A cell whose colour says where between the least and the most its value lies."""
    if value is None:
        return Cell("–")
    return Cell(show(value), (value - low) / (high - low) if high > low else 0.5)


def _pairs(analysis: Json) -> Iterable[Block]:
    """Cosines, signs and shared directions of each pair of experts."""
    pairs = analysis["total"]["pairs"]
    if not pairs:
        yield Text("There is one expert.")
        return
    rows = tuple(
        (
            words(f"{each['first']}, {each['second']}"),
            Cell(number(each["cosine"]), None if each["cosine"] is None else abs(each["cosine"])),
            Cell(share(each["sign_agreement"])),
            Cell(share(each["inputs_shared"]), each["inputs_shared"]),
            Cell(share(each["inputs_by_chance"])),
            Cell(share(each["outputs_shared"]), each["outputs_shared"]),
            Cell(share(each["outputs_by_chance"])),
        )
        for each in pairs
    )
    yield Table(
        "Pairs of experts: cosine of their changes, entries that both move one way, what the spans of their "
        "leading directions share",
        ("experts", "cosine", "same sign", "inputs", "by chance", "outputs", "by chance"),
        rows,
    )


def _energy(analysis: Json) -> Table:
    """Share of each change that so many directions hold."""
    ranks = [str(rank) for rank in analysis["ranks"]]
    rows = []
    for name, delta in _deltas(analysis):
        # JSON has text for the numbers that are keys.
        energy = {str(rank): held for rank, held in (delta["energy"] or {}).items()}
        held = [energy.get(rank) for rank in ranks]
        rows.append((words(name), *(Cell(share(each), each) for each in held)))
    return Table(
        "Share of a change's energy that rank k holds", ("", *(f"k = {r}" for r in ranks)), tuple(rows)
    )


def _ranks(analysis: Json) -> Table:
    rows = tuple(
        (
            words(name),
            Cell(number(delta["stable_rank"], 1)),
            Cell(number(delta["effective_rank"], 1)),
            Cell(share(delta["lost_to_bf16"])),
        )
        for name, delta in _deltas(analysis)
    )
    return Table(
        "Ranks, medians over the matrices, and what storing as bfloat16 rounds away",
        ("", "stable rank", "effective rank", "lost to bfloat16"),
        rows,
    )


def _deltas(analysis: Json) -> Iterable[tuple[str, Json]]:
    for name in analysis["experts"]:
        yield name, analysis["total"]["experts"][name]["delta"]
    yield "the merge", analysis["total"]["merged"]


def _cost(record: MergeRecord) -> Table:
    found = record.provenance
    inputs = sum(each["bytes"] for each in (found["base"], *found["experts"]))
    rows = [
        ("inputs", _size(inputs)),
        ("weights written", _size(record.weight_bytes)),
        ("device", str(found["device"])),
    ]
    if found["truncation"] is not None:
        rows.append(("relative truncation error of the adapter", number(found["truncation"], 4)))
    return Table("Bytes and where it ran", ("", ""), tuple((words(name), Cell(text)) for name, text in rows))


def _identities(found: Json) -> Table:
    rows = [(words("base"), words(found["base"]["model"]), words(found["base"]["identity"]))]
    rows += [(words(e["name"]), words(e["model"]), words(e["identity"])) for e in found["experts"]]
    rows += [(words(name), words(version), words("")) for name, version in found["versions"].items()]
    return Table(
        "SHA-256 of the models' contents, and versions",
        ("", "model or version", "identity"),
        tuple(rows),
        True,
    )


def number(value: float | None, digits: int = 2) -> str:
    """A figure for people; a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:.{digits}f}" if abs(value) < 100 else f"{value:,.0f}"


def share(value: float | None) -> str:
    """A share as a percentage of three digits; a dash where there is none."""
    return "–" if value is None else f"{100 * value:.3g} %"


def _hot(value: float | None) -> Cell:
    return Cell(number(value), value)


def _weight(weight: Any) -> str:
    return f"{weight:g}" if isinstance(weight, int | float) else str(weight)


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
