"""The documentation says what the code does."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

from optmerge.engine.running.run import plan
from optmerge.recipe import load_recipe

ROOT = Path(__file__).parents[1]
ROOMS = ("docs", "perf", "recipes", "results", "src", "tests", "zoo")
PAGES = sorted([*ROOT.glob("*.md"), *(page for room in ROOMS for page in (ROOT / room).rglob("*.md"))])
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


def _generator():
    spec = importlib.util.spec_from_file_location("make_method_pages", ROOT / "docs" / "make_method_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_method_pages_are_what_the_docstrings_say():
    pages = _generator().pages()
    stale = [
        path.name for path, text in pages.items() if not path.exists() or path.read_text("utf-8") != text
    ]
    assert not stale, f"run `make docs`: {stale}"
    assert {path.name for path in (ROOT / "docs/methods").glob("*.md")} == {path.name for path in pages}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_can_be_planned(recipe):
    assert plan(load_recipe(recipe)).counts()["merge"] > 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text("utf-8"), flags=re.DOTALL)
    linked = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", text)
    shown = re.findall(r'(?:src|srcset|href)="(?!https?://)([^"#]+)', text)
    missing = [target for target in (*linked, *shown) if not (page.parent / target).exists()]
    assert not missing


def _example(heading: str) -> str:
    """The code under a heading of the guide."""
    text = (ROOT / "docs/guide.md").read_text("utf-8")
    return text.split(f"## {heading}\n")[1].split("```python\n")[1].split("```")[0]


def test_the_guides_task_works_as_it_stands(monkeypatch):
    from optmerge.bench.tasks import _registry as registry

    registry.registered()
    monkeypatch.setattr(registry, "_TASKS", dict(registry._TASKS))
    names = {"__name__": "guide"}
    monkeypatch.setitem(sys.modules, "guide", ModuleType("guide"))  # dataclasses look their module up
    exec(_example("A task of your own"), names)
    task = registry.get("light")
    for index in range(20):
        scene = task.scene("test", index)
        assert all(task.metric(asked.answers[0], asked) == 1.0 for asked in scene.questions)
        assert task.metric("grey", scene.questions[0]) == 0.0


def test_the_guides_method_works_as_it_stands(monkeypatch):
    from optmerge.methods import _registry as registry

    registry.registered()
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    names = {"__name__": "guide"}
    exec(_example("A method of your own"), names)
    assert "signed_sum" in registry.registered()


@pytest.fixture
def band(tmp_path, monkeypatch):
    """A folder with what the page on omni models names, tiny."""
    from worlds import omni as tiny
    from worlds import omni_originals as originals
    from worlds import omni_zoo as zoo

    monkeypatch.chdir(tmp_path)
    checkpoints = {
        "llava": "llava-hf/llava-1.5-7b-hf",
        "video_llava": "LanguageBind/Video-LLaVA-7B-hf",
        "qwen2_audio": "Qwen/Qwen2-Audio-7B-Instruct",
    }
    for name, ref in checkpoints.items():
        originals.saved(tmp_path / ref, name)
    llm = zoo.base(tmp_path / "llm")
    for seed, (name, kind) in enumerate((("seeing", "clip"), ("hearing", "whisper"), ("watching", "frames"))):
        zoo.adapted(llm, tmp_path / name, kind, seed=seed)
    tiny.picture().save(tmp_path / "band.png")
    tiny.write_wave(tmp_path / "band.wav", tiny.sound())
    tiny.write_video(tmp_path / "band.mp4", range(0, 250, 25), tiny.sound())


def test_the_omni_pages_commands_work_as_they_stand(
    band: None,
    modality_zoo: Path,
    without_processes: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The training that the page begins with is found done; how it trains is tested where it is written."""
    import torch

    from optmerge.bench.modalities import orders, training
    from optmerge.cli import run
    from worlds import modalities as small

    few = partial(training.train, stages=small.stages(), size=small.SIZE)
    monkeypatch.setattr(training, "train", few)
    monkeypatch.setattr(orders, "QUICK", 1)
    monkeypatch.setattr(orders, "QUICK_METHODS", ("naivemc",))
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    shutil.copytree(modality_zoo, "out/omni")
    fenced = (ROOT / "docs/omni.md").read_text("utf-8").split("```")[1::2]
    blocks = [block for block in fenced if block.startswith("\n")]
    commands = [shlex.split(line) for block in blocks for line in block.splitlines() if line]
    assert {command[2] for command in commands} >= {
        "import",
        "compose",
        "ask",
        "train",
        "run",
        "table",
        "demo",
    }
    for program, *arguments in commands:
        assert program == "optmerge" and run(arguments) == 0, (arguments, capsys.readouterr().err)
    for made in ("llava", "omni", "naive", "decoupled", "out/omni/start", "out/demo-omni/index.html"):
        assert Path(made).exists()


def test_the_omni_pages_expert_hears(band):
    from transformers import AutoConfig, AutoModel

    from optmerge.omni import ask
    from worlds import omni as tiny

    AutoModel.from_config(AutoConfig.for_model(**tiny.ENCODERS["whisper"])).save_pretrained(
        "openai/whisper-small"
    )
    text = (ROOT / "docs/omni.md").read_text("utf-8")
    names = {"__name__": "page"}
    exec(text.split("```python\n")[1].split("```")[0], names)
    made = ask.load("hearing-start")
    assert list(made.processor.towers) == ["audio"]
    assert isinstance(ask.answer(made, "what ?", {"audio": ["band.wav"]}, longest=3), str)
    encoder = AutoModel.from_pretrained("openai/whisper-small").encoder.state_dict()
    assert all(
        made.model.towers["audio"].encoder.state_dict()[name].equal(each) for name, each in encoder.items()
    )


def test_the_omni_page_counts_its_questions_and_parameters_right():
    from optmerge.bench.modalities import models, words
    from optmerge.bench.modalities.asking import templates
    from optmerge.bench.modalities.training import SIZE
    from optmerge.bench.modalities.world import MODALITIES

    text = " ".join((ROOT / "docs/omni.md").read_text("utf-8").split())
    pairs = {(each.family, each.needs) for each in templates().values()}
    assert f"{len(templates())} templates make {len(pairs)} pairs" in text

    def millions(model):
        return round(sum(each.numel() for each in model.parameters()) / 1e6, 1)

    tokenizer = words.tokenizer()
    configs = [models.tower_config(modality, SIZE, tokenizer) for modality in MODALITIES]
    sizes = {millions(models.tower(config, SIZE, seed=0)) for config in configs}
    assert f"A Llama of {millions(models.language(SIZE, tokenizer, seed=0))} M parameters" in text
    assert f"projector of {min(sizes)} to {max(sizes)} M for each modality" in text
