"""`optmerge omni import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from optmerge.cli.omni._options import check_installed


def command(
    source: Annotated[str, typer.Argument(metavar="MODEL", help="LLaVA, Video-LLaVA or Qwen2-Audio.")],
    out: Annotated[Path, typer.Option(help="Output folder.", metavar="DIR")],
    tower: Annotated[
        list[str] | None,
        typer.Option(help="Which tower to keep, all by default; repeat.", metavar="MODALITY"),
    ] = None,
) -> None:
    """Make an expert of an existing checkpoint: the same weights, the same answers.

    Example: `optmerge omni import LanguageBind/Video-LLaVA-7B-hf --tower video --out seeing`
    """
    check_installed()
    from optmerge.checkpoints.output_files import disk_errors
    from optmerge.engine.output.folder import check_usable
    from optmerge.omni.importers import import_expert

    check_usable(out, "new")
    model, processor = import_expert(source, tower)
    with disk_errors(out):
        model.save_pretrained(out)
        processor.save_pretrained(out)
    print(f"wrote {out}: {', '.join(model.config.towers)}")
