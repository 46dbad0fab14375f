"""`optmerge omni demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from optmerge.cli.bench._options import Zoo
from optmerge.cli.options import Settings


def command(
    zoo: Zoo = None,
    out: Annotated[Path, typer.Option(help="Output folder.", metavar="DIR")] = Path("out/demo-omni"),
    method: Annotated[
        str | None,
        typer.Option(help="Any that `optmerge omni compose` takes; the best by default.", metavar="NAME"),
    ] = None,
    settings: Settings = None,
    clip: Annotated[int | None, typer.Option(help="Another clip of the test.", min=0)] = None,
) -> None:
    """Compose the three experts, ask everyone about one clip, and write its story as a page.

    Example: `optmerge omni demo --out out/demo-omni`
    """
    from optmerge.bench.modalities.demo import make_page, story

    number = story.CLIP if clip is None else clip
    made = make_page.run(
        out, zoo=zoo, method=method or make_page.METHOD, settings=settings or (), clip=number
    )
    for speaker, right in zip(made.speakers, made.right, strict=True):
        print(f"{speaker.name}: {right} of {len(made.exchanges)} right")
    print(f"wrote {out / make_page.PAGE}")
