"""`optmerge diff`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from optmerge.cli.options import AsJson

if TYPE_CHECKING:
    from rich.console import Console

    from optmerge.engine.diff import Difference, Side, TensorDifference

MOST_ROWS = 20
"""Lines of a table; `--json` has all of them."""


def command(
    a: Annotated[str, typer.Argument(metavar="A", help="Checkpoint or adapter that differences refer to.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The other: a checkpoint, or an adapter like A.")],
    as_json: AsJson = False,
) -> None:
    """Compare two checkpoints, or two adapters: names, types, shapes, values, settings, tokens.

    Tensors of other names for one parameter are the same; so are adapters whose factors have one product.
    Of configs what changes the computation or deserves a warning is compared, of tokenizers the token of
    each id. Exit code 0: equal; 1: they differ; 2: wrong input.

    Example: `optmerge diff base merged`
    """
    from optmerge.engine.diff import diff

    found = diff(a, b)
    if as_json:
        print(json.dumps(found.plain(), indent=1))
    else:
        _print(found)
    if not found.equal:
        raise typer.Exit(1)


def _print(found: Difference) -> None:
    from optmerge.cli.console import console, escape

    out = console()
    counts = found.counts()
    pairs = sum(counts[status] for status in ("equal", "values", "dtype", "shape"))
    if found.equal:
        words = f"equal: {pairs} tensors"
    else:
        words = f"{counts['equal']} of {pairs} common tensors are equal"
    out.print(f"[bold]{words}[/]  (A: {escape(found.a)}, B: {escape(found.b)})")
    differing = [each for each in found.tensors if each.changed]
    if differing:
        _print_parts(out, found.tensors)
        out.print()
        _print_values(out, differing)
    _print_types(out, [each for each in found.tensors if each.status == "dtype"])
    _print_list(out, "another shape", _shapes(found.tensors))
    for side, status in (("A", "only a"), ("B", "only b")):
        names = [each.name for each in found.tensors if each.status == status]
        _print_list(out, f"only in {side}", names)
    for setting in found.config:
        out.print(f"[bold]config[/] {escape(setting.key)}: A {_value(setting.a)}, B {_value(setting.b)}")
    if found.tokens:
        out.print(f"[bold]tokenizer[/] {found.tokens:,} ids stand for other tokens")


def _print_parts(out: Console, tensors: Sequence[TensorDifference]) -> None:
    from rich.table import Table

    from optmerge.cli.console import escape
    from optmerge.engine.diff import parts

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("component, kind", overflow="fold")
    for column in ("tensors", "differ", "‖B−A‖/‖A‖", "max |B−A|"):
        table.add_column(column, justify="right", no_wrap=True)
    for part in parts(tensors):
        numbers = _percent(part.relative), _number(part.largest)
        table.add_row(escape(f"{part.component} {part.kind}"), str(part.tensors), str(part.differ), *numbers)
    out.print(table)


def _print_values(out: Console, differing: Sequence[TensorDifference]) -> None:
    from rich.table import Table

    from optmerge.cli.console import escape

    ranked = sorted(differing, key=lambda each: -(float("inf") if each.relative is None else each.relative))
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("tensors that differ most", overflow="fold")
    for column in ("entries", "‖B−A‖/‖A‖", "max |B−A|"):
        table.add_column(column, justify="right", no_wrap=True)
    for each in ranked[:MOST_ROWS]:
        table.add_row(escape(each.name), _share(each), _percent(each.relative), _number(each.largest))
    out.print(table)
    if len(ranked) > MOST_ROWS:
        out.print(f"and {len(ranked) - MOST_ROWS} more; --json lists them all")


def _share(each: TensorDifference) -> str:
    """Share of the entries that differ."""
    from math import prod

    share = (each.changed or 0) / max(1, prod(each.a.shape if each.a else ()))
    return f"{100 * share:.0f} %" if share >= 0.01 else "<1 %"


def _print_types(out: Console, tensors: Sequence[TensorDifference]) -> None:
    from collections import Counter

    found = Counter((each.a.dtype, each.b.dtype) for each in tensors if each.a and each.b)
    for (ours, theirs), count in sorted(found.items()):
        out.print(f"[bold]another type[/] ({count}): {ours} in A, {theirs} in B")


def _shapes(tensors: Sequence[TensorDifference]) -> list[str]:
    def words(side: Side | None) -> str:
        return "×".join(map(str, side.shape)) or "scalar" if side else ""

    return [f"{each.name} {words(each.a)} | {words(each.b)}" for each in tensors if each.status == "shape"]


def _print_list(out: Console, what: str, names: Sequence[str]) -> None:
    from optmerge.cli.console import escape

    if names:
        more = [f"and {len(names) - MOST_ROWS} more"] if len(names) > MOST_ROWS else []
        out.print(f"[bold]{what}[/] ({len(names)}):")
        for name in [*names[:MOST_ROWS], *more]:
            out.print(f"  {escape(name)}")


def _value(value: object) -> str:
    from optmerge.cli.console import escape

    return "unset" if value is None else escape(str(value)[:60])


def _percent(relative: float | None) -> str:
    """A relative difference; a dash where there is no number."""
    if relative is None:
        return "–"
    share = 100 * relative
    return f"{share:.3g} %" if share >= 1e-3 or not share else "<0.001 %"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
