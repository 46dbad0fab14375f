"""What every test may ask for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import settings

from worlds import samples
from worlds.commands import Commands
from worlds.shared import shared

Write = Callable[..., Path]
settings.register_profile("fast", derandomize=True, database=None)
if not samples.EVERYTHING:
    settings.load_profile("fast")

THREADS = torch.get_num_threads()


@pytest.fixture(scope="session", autouse=True)
def a_cache_folder_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing is noted in the home of whoever runs the tests."""
    os.environ["OPTMERGE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def as_many_threads_as_before() -> Iterator[None]:
    """No test computes on more threads than were asked for because an earlier test, or a fixture, set them.

    Two workers with two threads each wait for one another more than they compute.
    """
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(THREADS)


@pytest.fixture
def without_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark works in the test's own process."""
    from optmerge.bench.demo import comparison
    from optmerge.bench.trials import workers
    from worlds import in_process

    for module in (workers, comparison):
        monkeypatch.setattr(module, "Workers", in_process.Workers)


@pytest.fixture
def recipe_file(tmp_path: Path) -> Write:
    """Writes keyword arguments as a recipe; returns its path."""

    def write(name: str = "recipe.yaml", **recipe: object) -> Path:
        path = tmp_path / name
        path.write_text(yaml.safe_dump(recipe), "utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both of the benchmark's lines at random: two sets of full experts, one of adapters, mixtures."""
    from worlds import random_zoo

    return shared(tmp_path_factory, "random-zoo", random_zoo.make_both)


@pytest.fixture(scope="session")
def modality_zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The modality benchmark's models, trained for two steps a stage."""
    from worlds import modalities

    return shared(tmp_path_factory, "modality-zoo", modalities.train)


@pytest.fixture(scope="session")
def commands() -> Iterator[Commands]:
    """Starts commands in processes of their own."""
    server = Commands()
    yield server
    server.close()
