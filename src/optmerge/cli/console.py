"""What people read: rich tables of plans, results and checks."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from rich import markup
from rich.console import Console
from rich.table import Table

from optmerge.errors import printable

if TYPE_CHECKING:
    from optmerge.engine.merge import Result
    from optmerge.engine.plan import Change, MethodUse, Plan, TensorPlan
    from optmerge.engine.verify.checks import Verification

NARROWEST = 160
"""Columns where the output isn't a terminal."""

WAYS = {
    "declared": "declared",
    "class": "read from its class in transformers",
    "names": "generic: roles are guessed from names",
}
"""How an architecture is known, for people."""

MOST_WARNINGS = 8
"""Lines of warnings; a method may have one about every tensor."""


def console() -> Console:
    """Standard output, wide enough not to fold tables in a log."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=max(found.width, NARROWEST))


def escape(text: object) -> str:
    """Text from elsewhere, which neither the terminal nor rich takes for instructions."""
    return markup.escape(printable(str(text)))


def size_words(size: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def time_words(seconds: float) -> str:
    """A time for people."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"


def print_plan(plan: Plan, *, every_tensor: bool) -> None:
    """The fate of every tensor, layers folded unless asked otherwise, and the cost."""
    out = console()
    for index, use in enumerate(plan.methods):
        if use is not None:
            parameters = ", ".join(
                f"{key}={value}" for key, value in use.all_parameters.items() if value is not None
            )
            who = "method" if index == 0 else f"rule {index - 1}"
            choice = plan.recipe.method if index == 0 else plan.recipe.rules[index - 1].method
            name = f"auto: {use.label}" if choice and choice.name == "auto" else use.label
            words = f"{name}, scale {scale_words(use)}{', ' + parameters if parameters else ''}"
            out.print(f"[bold]{who}[/]: {escape(words)}")
    out.print(f"[bold]architecture[/]: {escape(plan.architecture)} ({WAYS[plan.way]})")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("tensors", "shape", "role", "what happens", "why"):
        table.add_column(column, overflow="fold")
    table.add_column("count", justify="right")
    for (name, *cells), tensors in _folded(plan.tensors, every_tensor).items():
        table.add_row(escape(name), *(escape(cell) for cell in cells), str(len(tensors)))
    out.print(table)
    counts = plan.counts()
    out.print(
        f"[bold]{len(plan.tensors)} tensors[/]: {counts['merge']} merged, {counts['copy']} copied, "
        f"{counts['alias']} tied to another and not written"
    )
    cost = plan.cost
    out.print(
        f"[bold]cost[/]: {size_words(cost.bytes_read)} read, {size_words(cost.bytes_written)} written, "
        f"peak {size_words(cost.peak_bytes)} for tensors (at {escape(cost.peak_tensor or 'none')}), "
        f"{cost.flops / 1e9:,.2f} GFLOP"
    )
    if plan.routed is not None:
        routed = plan.routed
        count, left = len(plan.expert_names), f", {len(routed.left)} left as merged" if routed.left else ""
        out.print(
            f"[bold]routed[/]: {count} parts and a router of at most {routed.weights:,} weights, "
            f"{routed.share:.0%} of the model's, {size_words(routed.nbytes)}; parts change "
            f"{len(routed.tensors)} merged tensors{left}; the router reads {escape(routed.module)}"
        )
    _print_changes(out, plan.changes)
    _print_warnings(out, plan.warnings)


def _print_changes(out: Console, changes: tuple[Change, ...]) -> None:
    """One line for each expert: how far it moved each component from the base."""
    from optmerge.engine.changes import change_lines

    for line in change_lines(changes):
        out.print(f"[bold]changed[/] {escape(line)}")


def scale_words(use: MethodUse) -> str:
    """A planned scale: the number, or the rule by which it will be chosen."""
    over_depth = f", over depth × {', '.join(f'{factor:g}' for factor in use.depth)}" if use.depth else ""
    if isinstance(use.scale, float):
        return f"{use.scale:g}{over_depth}"
    from optmerge.methods import RULE_WORDS

    assert use.auto is not None
    factor = "" if use.strength == 1 else f"{use.strength:g} × "
    return f"{factor}auto ({RULE_WORDS[use.auto]}){over_depth}"


def _folded(tensors: tuple[TensorPlan, ...], every_tensor: bool) -> dict[tuple[str, ...], list[TensorPlan]]:
    groups: dict[tuple[str, ...], list[TensorPlan]] = defaultdict(list)
    for tensor in tensors:
        name = tensor.name if every_tensor else re.sub(r"(?<=\.)\d+(?=\.)", "*", tensor.name)
        what = "merged" if tensor.action == "merge" else f"copied from {tensor.source}"
        if tensor.action == "alias":
            what = "not written"
        kind = f"{tensor.component}/{tensor.kind}"
        shape = "×".join(map(str, tensor.shape)) or "scalar"
        groups[name, f"{shape} {tensor.out_dtype}", kind, what, tensor.reason.words].append(tensor)
    return groups


def print_result(result: Result) -> None:
    """One paragraph about a merge that was run."""
    out = console()
    counts, plan = result.plan.counts(), result.plan
    written = size_words(plan.cost.bytes_written)
    out.print(
        f"{escape(result.path)}: {counts['merge']} tensors merged, {counts['copy']} copied, "
        f"{written} written in {result.seconds:.1f} s"
    )
    for use, chosen in zip(plan.methods, result.scales, strict=False):
        if use is not None and chosen is not None:
            from optmerge.engine.running.scales import scale_words as chosen_words

            out.print(f"scale of {use.label}: {escape(chosen_words(chosen))}")
    if result.resumed_tensors:
        out.print(f"resumed: {result.resumed_tensors} tensors had been written before")
    if result.parts is not None:
        kept = ", ".join(f"{name} {share:.0%}" for name, share in result.parts.kept.items())
        out.print(
            f"parts and router: {result.parts.weights:,} weights, {size_words(result.parts.nbytes)}; of what "
            f"the merge lost of each expert its part gives back {escape(kept)}"
        )
    if result.truncation is not None:
        out.print(f"adapter: relative truncation error {result.truncation:.2e}")
    _print_changes(out, plan.changes)
    _print_warnings(out, result.warnings)
    out.print(f"next: optmerge verify {escape(result.path)}")


def print_verification(found: Verification) -> None:
    """One line per check."""
    out = console()
    marks = {True: "[green]ok[/]", False: "[red]FAILED[/]", None: "[yellow]skipped[/]"}
    table = Table(box=None, pad_edge=False, show_header=False)
    for check in found.checks:
        table.add_row(marks[check.ok], check.name, escape(check.detail))
    out.print(table)
    _print_changes(out, found.changes)
    _print_warnings(out, found.warnings)


def print_methods(methods: list[dict[str, Any]]) -> None:
    """One line per method."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("method", "scale", "parameters", "what it does"):
        table.add_column(column, overflow="fold")
    for method in methods:
        pairs = (f"{name}={each['default']}" for name, each in method["parameters"].items())
        scale = "1 (fixed)" if method["fixed_scale"] else method["default_scale"]
        table.add_row(method["name"], scale, escape(", ".join(pairs)), escape(method["summary"]))
    console().print(table)


def print_modifiers(modifiers: list[dict[str, Any]]) -> None:
    """One line per modifier."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("around a method", "parameters", "what it does"):
        table.add_column(column, overflow="fold")
    for modifier in modifiers:
        pairs = (f"{name}={each['default']}" for name, each in modifier["parameters"].items())
        table.add_row(f"+{modifier['name']}", escape(", ".join(pairs)), escape(modifier["summary"]))
    console().print(table)


def print_method(method: dict[str, Any]) -> None:
    """The whole documentation of a method or a modifier."""
    out = console()
    scale = f"default scale {method['default_scale']}" if "default_scale" in method else "around a method"
    out.print(f"[bold]{method['name']}[/]  ({scale})")
    out.print(escape(method["doc"]))


def print_inspection(found: dict[str, Any]) -> None:
    """A checkpoint by role, or an adapter by target."""
    out = console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    if found["kind"] == "adapter":
        base = escape(found["base"] or "an unnamed base")
        out.print(f"{escape(found['path'])}: adapter for {base}, {size_words(found['bytes'])}")
        rows, columns = found["targets"], ["module", "kind", "rank", "tensors"]
    else:
        architecture = found["architecture"]
        family = f"{escape(architecture['name'])} ({WAYS[architecture['way']]})"
        out.print(
            f"{escape(found['path'])}: {family}, {found['tensors']} tensors, "
            f"{found['parameters']:,} parameters, {size_words(found['bytes'])}"
        )
        rows, columns = found["roles"], ["component", "kind", "dtype", "tensors", "parameters", "bytes"]
    for column in columns:
        table.add_column(
            column, justify="left" if column in ("module", "component", "kind", "dtype") else "right"
        )
    for row in rows:
        table.add_row(*(f"{row[c]:,}" if isinstance(row[c], int) else escape(row[c]) for c in columns))
    out.print(table)
    for alias, source in found.get("tied", ()):
        out.print(f"tied: {escape(alias)} = {escape(source)}")


def _print_warnings(out: Console, warnings: tuple[str, ...]) -> None:
    for warning in warnings[:MOST_WARNINGS]:
        out.print(f"[yellow]warning[/]: {escape(warning)}")
    if len(warnings) > MOST_WARNINGS:
        out.print(f"[yellow]warning[/]: and {len(warnings) - MOST_WARNINGS} more; --json lists them all")
