"""`optmerge omni`: compose models of several modalities, and ask them."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from optmerge.cli.omni import modalities as omni_bench
from optmerge.cli.options import DEFAULT_METHOD, AsJson, Settings
from optmerge.errors import InputError, RecipeError, printable, readable
from optmerge.evaluate.answering import CHAT_TOKENS
from optmerge.recipe import override, parse_recipe

app = typer.Typer(
    help="One model for pictures, sound and video, composed of experts that know one each.",
    no_args_is_help=True,
)
for _command in (omni_bench.train, omni_bench.run, omni_bench.table, omni_bench.demo):
    app.command()(_command)


@app.command("compose")
def compose_command(
    base: Annotated[
        str, typer.Option(help="The language model all experts were built around.", metavar="MODEL")
    ],
    experts: Annotated[
        list[str],
        typer.Option("--expert", help="Omni checkpoint, or PEFT adapter of one; repeat.", metavar="MODEL"),
    ],
    out: Annotated[Path, typer.Option(help="Output folder.", metavar="DIR")],
    method: Annotated[
        str, typer.Option(help="Any of `optmerge methods`, or naivemc, or damc.", metavar="NAME")
    ] = DEFAULT_METHOD,
    tower: Annotated[
        list[str] | None,
        typer.Option(
            help="Whose tower is kept where several experts have one; repeat.", metavar="MODALITY=EXPERT"
        ),
    ] = None,
    settings: Settings = None,
    device: Annotated[str, typer.Option(help="Where to compute: cpu or cuda.")] = "cpu",
    memory: Annotated[
        str | None, typer.Option(help="Memory budget of the whole process, such as 2GiB.", metavar="SIZE")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted composition.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier one.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compose experts of different modalities into one model.

    Example: `optmerge omni compose --base llm --expert seeing --expert hearing --out omni`
    """
    _check_installed()
    if resume and overwrite:
        raise RecipeError("--resume and --overwrite exclude each other", hint="choose one")
    data: dict[str, Any] = {"base": base, "experts": list(experts), "method": method}
    recipe = parse_recipe(override(data, settings or []), "the command line")

    from optmerge.cli.progress import progress_bar
    from optmerge.engine.merge import Options
    from optmerge.engine.output.folder import Mode
    from optmerge.omni.compose import compose

    mode: Mode = "resume" if resume else "overwrite" if overwrite else "new"
    watch = progress_bar(out if resume else None, quiet=quiet or as_json)
    options = Options(mode, device, memory)
    done = compose(recipe, out, towers=_pairs(tower or []), options=options, watch=watch)
    if as_json:
        from optmerge.cli.merge import summary

        told = summary(done.result) if done.result else {}
        adapter = str(done.adapter) if done.adapter else None
        print(json.dumps({**told, "out": str(done.path), "adapter": adapter}, indent=1))
    elif not quiet and done.result:
        from optmerge.cli.tables import print_result

        print_result(done.result)
    elif not quiet:
        print(f"wrote {done.path}")


@app.command("import")
def import_command(
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
    _check_installed()
    from optmerge.checkpoints.output_files import disk_errors
    from optmerge.engine.output.folder import check_usable
    from optmerge.omni.importers import import_expert

    check_usable(out, "new")
    model, processor = import_expert(source, tower)
    with disk_errors(out):
        model.save_pretrained(out)
        processor.save_pretrained(out)
    print(f"wrote {out}: {', '.join(model.config.towers)}")


def _check_installed() -> None:
    missing = [name for name in ("transformers", "PIL", "av") if find_spec(name) is None]
    if missing:
        raise InputError(f"{missing[0]} isn't installed", hint="pip install 'optmerge[omni]'")


def _pairs(settings: list[str]) -> dict[str, str]:
    pairs = [setting.partition("=") for setting in settings]
    for modality, equals, name in pairs:
        if not (modality and equals and name):
            raise RecipeError(
                "can't be understood", where="--tower", got=modality, expected="MODALITY=EXPERT"
            )
    return {modality: name for modality, _, name in pairs}


@app.command("ask")
def ask_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Omni model, or adapter of one.")],
    questions: Annotated[list[str], typer.Argument(metavar="QUESTION…", help="Each is asked on its own.")],
    image: Annotated[list[Path] | None, typer.Option(help="Picture; repeat.", metavar="FILE")] = None,
    audio: Annotated[
        list[Path] | None, typer.Option(help="Sound, also that of a video; repeat.", metavar="FILE")
    ] = None,
    video: Annotated[list[Path] | None, typer.Option(help="Video; repeat.", metavar="FILE")] = None,
    longest: Annotated[int, typer.Option(help="Tokens of an answer, at most.", min=1)] = CHAT_TOKENS,
    device: Annotated[str, typer.Option(help="Where it answers: cpu, cuda, cuda:1.")] = "cpu",
) -> None:
    """Ask about pictures, sound and video, greedily; one answer a line.

    Items go before the question, pictures first, or where it says <image>, <audio>, <video>.

    Example: `optmerge omni ask omni --image band.png --audio band.wav "who is singing?"`
    """
    _check_installed()
    from optmerge.engine.planning.request import check_device
    from optmerge.omni.ask import answer, load

    check_device(device)

    items = {"image": image or [], "audio": audio or [], "video": video or []}
    asked = load(model, device=device)
    for question in questions:
        with _notices():
            told = answer(asked, question, items, longest=longest)
        print(readable(told))


@contextmanager
def _notices() -> Iterator[None]:
    """What isn't taken as it is, told once a question on the error stream."""
    from optmerge.omni.media import MediaWarning

    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", MediaWarning)
        yield
    for words in dict.fromkeys(str(each.message) for each in found):
        print(f"note: {printable(words)}", file=sys.stderr)
