"""The documentation says what the code does."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import sys
import tomllib
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from optmerge.architectures import registered
from optmerge.engine.merge import plan
from optmerge.recipe import load_recipe

ROOT = Path(__file__).parents[2]
ROOMS = ("docs", "perf", "recipes", "results", "src", "tests", "zoo")
PAGES = sorted([*ROOT.glob("*.md"), *(page for room in ROOMS for page in (ROOT / room).rglob("*.md"))])
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


def _generator(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_method_pages_are_what_the_docstrings_say() -> None:
    pages = _generator("make_method_pages").pages()
    stale = [
        path.name for path, text in pages.items() if not path.exists() or path.read_text("utf-8") != text
    ]
    assert not stale, f"run `make docs`: {stale}"
    assert {path.name for path in (ROOT / "docs/reference/methods").glob("*.md")} == {
        path.name for path in pages
    }


@pytest.mark.parametrize("name", ["make_model_types_page", "make_reference_pages"])
def test_made_pages_are_what_they_are_made_of(name: str) -> None:
    pages = _generator(name).pages()
    stale = [path.name for path, text in pages.items() if path.read_text("utf-8") != text]
    assert not stale, f"run `make docs`: {stale}"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_can_be_planned(recipe: Any) -> None:
    assert plan(load_recipe(recipe)).counts()["merge"] > 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text("utf-8"), flags=re.DOTALL)
    linked = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", text)
    shown = re.findall(r'(?:src|srcset|href)="(?!https?://)([^"#]+)', text)
    missing = [target for target in (*linked, *shown) if not (page.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_headings_find_them(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text("utf-8"), flags=re.DOTALL)
    for target, anchor in re.findall(r"\]\((?!https?://)([^)#\s]*)#([^)\s]+)", text):
        linked = (page.parent / target if target else page).read_text("utf-8")
        headings = re.findall(r"^#+ (.*)$", linked, flags=re.MULTILINE)
        assert anchor in {re.sub(r"[^\w\- ]", "", each).lower().replace(" ", "-") for each in headings}


MANUAL = [page for page in PAGES if page.is_relative_to(ROOT / "docs") and page.name != "notebook.md"]
PLACES = (ROOT, ROOT / "src/optmerge")


@pytest.mark.parametrize(
    "page",
    [*MANUAL, ROOT / "CONTRIBUTING.md", ROOT / "STYLE.md"],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_files_and_folders_that_a_page_names_are_there(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    named = re.findall(r"`((?:[\w.-]+/)+(?:[\w.-]+\.(?:py|md|toml))?)`", text)
    made = ("NAME", "out/", "OUT/", *_made_by(page))
    missing = [name for name in named if not any((place / name).exists() for place in PLACES)]
    assert [name for name in missing if not any(part in name for part in made)] == []


def _made_by(page: Path) -> list[str]:
    """Files that a how-to page tells its reader to write: those in the table under "What you write"."""
    _, _, after = page.read_text("utf-8").partition("## What you write\n")
    return re.findall(r"^\| `([^`]+)` \|", after.partition("\n## ")[0], flags=re.MULTILINE)


def test_the_rooms_are_those_of_the_import_contract() -> None:
    text = (ROOT / "docs/explain/architecture.md").read_text("utf-8").partition("## Rooms\n")[2]
    rows = re.findall(r"^\| (`.*?`) \|", text, flags=re.MULTILINE)
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    contract = next(each for each in contracts if each["containers"] == ["optmerge"])
    layers = [re.findall(r"\w+", layer) for layer in contract["layers"]]
    assert [re.findall(r"\w+", row) for row in rows][: len(layers)] == layers


def _code(page: str) -> str:
    """The first block of Python on a how-to page, which is the whole file that its reader writes."""
    return (ROOT / "docs/how-to" / page).read_text("utf-8").split("```python\n")[1].split("```")[0]


def test_the_how_to_pages_architecture_is_right_about_every_parameter() -> None:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    from architectures.test_roles import true_roles

    names: dict[str, Any] = {"__name__": "page"}
    exec(_code("add-an-architecture.md"), names)
    (declared,) = names["ARCHITECTURES"]
    sizes = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48}
    model = GPTNeoXForCausalLM(GPTNeoXConfig(**sizes, num_hidden_layers=1, num_attention_heads=4))
    truth = list(true_roles(model))
    assert [(name, shape, declared.role(name, shape)) for name, shape, _ in truth] == truth
    assert declared.canonical("embed_out.weight") == "lm_head.weight"
    assert all(declared.canonical(name) == name for name in model.state_dict())
    assert declared.tied({"tie_word_embeddings": True}) == (("lm_head.weight", "gpt_neox.embed_in.weight"),)


def test_the_how_to_pages_method_is_a_median_in_the_memory_that_it_declares() -> None:
    import torch
    from perf.workspace import cases, measured

    from optmerge.methods import merge_deltas, registered
    from worlds.methods import own_registry

    deltas = torch.randn(5, 6, 4, generator=torch.Generator().manual_seed(0))
    with own_registry():
        exec(_code("add-a-method.md"), {"__name__": "median"})
        assert torch.equal(merge_deltas("median", deltas), deltas.median(dim=0).values)
        merged = merge_deltas("median", deltas, towards_mean=1.0)
        torch.testing.assert_close(merged, merge_deltas("average", deltas))
        method = registered()["median"]
        held = [(measured(method, case), method.resources.workspace(case)) for case in cases(method)]
    assert all(most <= declared <= 1.2 * most for most, declared in held), held


def test_the_how_to_pages_line_loads_models_and_asks_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("pocket")
    monkeypatch.setitem(sys.modules, "pocket", module)  # dataclasses look their module up
    exec(_code("add-a-line.md"), vars(module))
    (tmp_path / "pocket").symlink_to(ROOT / "zoo" / "lora")
    line = module.LINE
    found = line.members(tmp_path, *line.sets(tmp_path))
    tasks = list(line.tasks().values())
    for folder in (found.base, found.experts["chart"]):
        model = line.load(folder, base=found.base, device="cpu", dtype=line.dtype)
        answered = model.answers(tasks, "validation", 2)
        assert [(len(each.questions), len(each.texts)) for each in answered] == [(2, 2)] * len(tasks)
        assert all(text for each in answered for text in each.texts)


def test_the_how_to_pages_tower_makes_embeddings_of_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from optmerge.omni.towers import _registry
    from worlds import omni as tiny
    from worlds.plugins import forget, install

    forget(monkeypatch, _registry, "_KINDS")
    install(monkeypatch, tmp_path, "optmerge.towers", _code("add-a-tower.md"))
    text = (ROOT / "docs/how-to/add-a-tower.md").read_text("utf-8")
    entry = text.split("```python\n")[2].split("```")[0]
    monkeypatch.setattr(tiny, "ENCODERS", eval(f"{{{entry}}}", {"_VISION": tiny._VISION}))
    model = tiny.model("vit")
    processor = tiny.processor(model)
    assert model.config.towers["image"].grid == (2, 2)
    first, second = (processor("<image> what", images=[tiny.picture(seed)]) for seed in (1, 2))
    with torch.no_grad():
        assert not torch.equal(model(**first).logits[:, -1], model(**second).logits[:, -1])


@pytest.fixture
def band(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.mark.slow
def test_the_omni_pages_commands_work_as_they_stand(
    band: None,
    modality_zoo: Path,
    without_processes: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The training that the page begins with is found done; how it trains is tested where it is written."""
    import torch

    from optmerge.bench.modalities import exam, jobs, training
    from optmerge.bench.modalities.demo import make_page
    from optmerge.cli import run
    from worlds import modalities as small

    few = partial(training.train, stages=small.stages(), size=small.SIZE)
    monkeypatch.setattr(training, "train", few)
    monkeypatch.setattr(jobs, "QUICK", 1)
    monkeypatch.setattr(jobs, "QUICK_METHODS", ("naivemc",))
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    shutil.copytree(modality_zoo, "out/omni")
    for module in (exam, make_page):  # models at random never stop
        monkeypatch.setattr(module, "WORKED_TOKENS", 3)
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


def test_the_omni_pages_expert_hears(band: None) -> None:
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


def test_the_omni_page_counts_its_questions_and_parameters_right() -> None:
    from optmerge.bench.modalities import models, words
    from optmerge.bench.modalities.templates import templates
    from optmerge.bench.modalities.training import SIZE
    from optmerge.bench.modalities.world import MODALITIES

    text = " ".join((ROOT / "docs/omni.md").read_text("utf-8").split())
    pairs = {(each.family, each.needs) for each in templates().values()}
    assert f"{len(templates())} templates make {len(pairs)} pairs" in text

    def millions(model: Any) -> Any:
        return round(sum(each.numel() for each in model.parameters()) / 1e6, 1)

    tokenizer = words.tokenizer()
    configs = [models.tower_config(modality, SIZE, tokenizer) for modality in MODALITIES]
    sizes = {millions(models.tower(config, SIZE, seed=0)) for config in configs}
    assert f"A Llama of {millions(models.language(SIZE, tokenizer, seed=0))} M parameters" in text
    assert f"projector of {min(sizes)} to {max(sizes)} M for each modality" in text


def test_the_readme_counts_the_declared_architectures() -> None:
    counted = re.search(r"(\d+) architectures", (ROOT / "README.md").read_text("utf-8"))
    assert counted and int(counted[1]) == len(registered())
