from pathlib import Path

import pytest

from worlds import random_zoo


@pytest.fixture(scope="package")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both lines at random: two expert sets of the full line, one of the lora line, mixtures."""
    folder = tmp_path_factory.mktemp("zoo")
    random_zoo.make(folder, "full", sets=2)
    return random_zoo.make(folder, "lora")
