"""A package that adds a method, an architecture, a task, a line and a tower works as if they were shipped.

The package lies in tests/plugin with the metadata of an installed distribution, so a process that has the
folder on its path has the package installed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "tests" / "plugin"
PAGES = {
    "median": "add-a-method.md",
    "gpt_neox": "add-an-architecture.md",
    "clock": "add-a-drawn-task.md",
    "pocket": "add-a-line.md",
    "vit": "add-a-tower.md",
}
REGISTRIES = """
from optmerge import architectures, methods
from optmerge.bench import lines, tasks
from optmerge.omni.towers import tower_kind
names = {*methods.registered(), *tasks.registered(), *lines.registered(), tower_kind("vit").name}
names |= set(architectures.registered())
print(*sorted(names))
"""


def run(*command: str | Path, seconds: int = 600) -> str:
    """What a command prints in a process that has the package installed; it must succeed."""
    path = os.pathsep.join(map(str, (PLUGIN, ROOT / "tests", ROOT / "src", ROOT)))
    environment = os.environ | {"PYTHONPATH": path, "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize("name", PAGES)
def test_the_package_is_what_the_how_to_pages_tell_to_write(name: str) -> None:
    page = (ROOT / "docs/how-to" / PAGES[name]).read_text("utf-8")
    whole_file = page.split("```python\n")[1].split("```")[0]
    assert (PLUGIN / "outsider" / f"{name}.py").read_text("utf-8") == whole_file


def test_everything_that_the_package_declares_is_found() -> None:
    assert set(PAGES) <= set(run("-c", REGISTRIES).split())


@pytest.mark.slow
def test_the_package_passes_conformance_without_another_edit() -> None:
    files = (
        "tests/conformance/test_methods.py",
        "tests/conformance/test_tasks.py",
        "tests/conformance/test_architectures_merge.py",
        "tests/methods/test_truths.py",
        "tests/architectures/test_roles.py",
        "tests/architectures/test_names.py",
        "tests/omni/test_model.py",
        "tests/omni/test_processor.py",
    )
    names = [name for name in PAGES if name != "pocket"]  # a line's promises are kept by its models
    options = ("-vv", "-p", "outsider.worlds", "-p", "no:cacheprovider", "-k", " or ".join(names))
    found = run("-m", "pytest", *options, *files)
    passed = " ".join(line for line in found.splitlines() if " PASSED" in line)
    assert all(f"[{name}" in passed or f"-{name}" in passed for name in names)


@pytest.mark.slow
def test_the_package_is_in_the_benchmarks_records_tables_and_figures(tmp_path: Path) -> None:
    zoo = tmp_path / "zoo"
    make = "import sys; from pathlib import Path; from worlds import random_zoo; "
    run("-c", make + "random_zoo.make(Path(sys.argv[1]), 'lora', mixture=False)", zoo)
    shutil.copytree(zoo / "lora", zoo / "pocket")
    for folder in (zoo / "pocket/experts/0").iterdir():
        if folder.name in ("chart", "ocr"):  # the pocket line finds an adapter's base as PEFT does
            config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
            config["base_model_name_or_path"] = "../../../base"
            (folder / "adapter_config.json").write_text(json.dumps(config), "utf-8")
        else:
            shutil.rmtree(folder)
    records = ("--records", tmp_path / "records")
    bench = ("-m", "optmerge.cli", "bench")
    asked = ("--zoo", zoo, "--out", tmp_path / "records", "--scratch", tmp_path / "scratch", "--jobs", "1")
    run(*bench, "run", "--quick", "--n", "3", "--method", "median", "--method", "average", *asked)
    shown = run(*bench, "table", *records, "--csv")
    assert {"lora,median", "pocket,median"} <= {",".join(row.split(",")[:2]) for row in shown.splitlines()}
    assert any(row.startswith("lora,median,clock") for row in shown.splitlines())
    drawn = run(*bench, "figure", *records, "--out", tmp_path / "figures")
    assert drawn.split() and all(Path(path).stat().st_size for path in drawn.split())


@pytest.mark.slow
def test_the_methods_page_is_written_with_the_others(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    run(tmp_path / "docs/make_method_pages.py")
    pages = tmp_path / "docs/reference/methods"
    assert (pages / "median.md").read_text("utf-8").startswith("# median")
    assert "[median](median.md)" in (pages / "README.md").read_text("utf-8")
    shipped = ROOT / "docs/reference/methods"
    same = [path for path in shipped.iterdir() if path.name != "README.md"]
    assert all((pages / path.name).read_bytes() == path.read_bytes() for path in same)
