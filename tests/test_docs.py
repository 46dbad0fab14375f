"""The documentation says what the code does."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from optmerge.engine.run import plan
from optmerge.recipe import load_recipe

ROOT = Path(__file__).parents[1]
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


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/ARCHITECTURE.md", "docs/guide.md"])
def test_links_between_pages_lead_somewhere(page):
    text = (ROOT / page).read_text("utf-8")
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)", text)
    missing = [target for target in targets if not ((ROOT / page).parent / target).exists()]
    assert not missing


def _example(heading: str) -> str:
    """The code under a heading of the guide."""
    text = (ROOT / "docs/guide.md").read_text("utf-8")
    return text.split(f"## {heading}\n")[1].split("```python\n")[1].split("```")[0]


def test_the_guides_task_works_as_it_stands(monkeypatch):
    from optmerge.bench.tasks import registry

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
    from optmerge.methods import registry

    registry.registered()
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    names = {"__name__": "guide"}
    exec(_example("A method of your own"), names)
    assert "signed_sum" in registry.registered()
