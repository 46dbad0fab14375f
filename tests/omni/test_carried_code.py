"""Code that composed models carry: the package's own, and enough to load the model without the package."""

from __future__ import annotations

import ast
import difflib
import importlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoProcessor, dynamic_module_utils

from optmerge.engine.verify.checks import Check, verify
from optmerge.omni import OmniConfig, OmniForConditionalGeneration, OmniProcessor
from optmerge.omni import carried_code as carrying
from optmerge.omni.carried_code import carried_code, code_hash
from optmerge.omni.compose import compose
from optmerge.omni.towers import tower_kinds
from worlds import omni as tiny
from worlds import omni_zoo as zoo

KINDS = {"image": "clip", "audio": "whisper", "video": "frames"}

OUTSIDE = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "optmerge":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
"""

LOAD = """
import pickle
import torch
import transformers
from safetensors.torch import save_file

folder, asked, answers = sys.argv[1:]
config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
found = {}
for auto in ("AutoModel", "AutoModelForImageTextToText", "AutoModelForMultimodalLM"):
    model = getattr(transformers, auto).from_pretrained(folder, trust_remote_code=True).eval()
    assert type(model.config) is type(config), (type(model.config), type(config))
processor = transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=True)
with open(asked, "rb") as file:
    text, items = pickle.load(file)
inputs = processor(text, **items)
with torch.no_grad():
    found["logits"] = model(**inputs).logits
found["tokens"] = model.generate(**inputs, do_sample=False, max_new_tokens=5)
save_file({**found, **inputs}, answers)
model.save_pretrained(folder + "-again")
processor.save_pretrained(folder + "-again")
again = transformers.AutoModel.from_pretrained(folder + "-again", trust_remote_code=True).eval()
other = transformers.AutoProcessor.from_pretrained(folder + "-again", trust_remote_code=True)
with torch.no_grad():
    assert torch.equal(again(**other(text, **items)).logits, found["logits"])
assert not any(name.partition(".")[0] == "optmerge" for name in sys.modules)
"""


GENERATED = {"optmerge.omni", "optmerge.omni.towers", "optmerge.omni.carried_code"}


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("composed")
    llm = zoo.base(home / "llm")
    for seed, (modality, kind) in enumerate(KINDS.items(), 1):
        zoo.full(llm, home / modality, kind, seed=seed)
    experts = [str(home / modality) for modality in KINDS]
    return compose({"base": str(llm), "experts": experts, "method": "average"}, home / "omni").path


@pytest.fixture
def copied(composed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(composed, tmp_path / "copied"))


TEXT = "a <video> b <image> c <audio> what ?"


def items() -> dict[str, Any]:
    return {"images": [tiny.picture()], "audio": [tiny.sound()], "videos": [tiny.clip()]}


def code_check(folder: Path) -> Check:
    return next(check for check in verify(folder).checks if check.name == "code")


@pytest.mark.slow
def test_a_composed_model_answers_the_same_where_optmerge_is_not_installed(
    composed: Path, tmp_path: Path
) -> None:
    (tmp_path / "asked").write_bytes(pickle.dumps((TEXT, items())))
    answers = tmp_path / "answers.safetensors"
    quiet = {"PYTHONPATH": "", "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", OUTSIDE + LOAD, str(composed), str(tmp_path / "asked"), str(answers)],
        env={**os.environ, **quiet},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    told = load_file(answers)
    inputs = OmniProcessor.from_pretrained(composed)(TEXT, **items())
    model = OmniForConditionalGeneration.from_pretrained(composed)
    assert all(torch.equal(told[name], value) for name, value in inputs.items())
    assert torch.equal(told["logits"], zoo.logits(model, inputs))
    assert torch.equal(told["tokens"], model.generate(**inputs, do_sample=False, max_new_tokens=5))


def test_carried_code_gives_the_bytes_that_the_package_gives(
    composed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)

    def carried(name: str) -> Any:
        return dynamic_module_utils.get_class_from_dynamic_module(f"optmerge_omni.{name}", str(composed))

    inputs = carried("OmniProcessor").from_pretrained(composed)(TEXT, **items())
    model = carried("OmniForConditionalGeneration").from_pretrained(composed)
    own = OmniForConditionalGeneration.from_pretrained(composed)
    assert not isinstance(model, OmniForConditionalGeneration)
    assert all(
        torch.equal(value, inputs[name])
        for name, value in OmniProcessor.from_pretrained(composed)(TEXT, **items()).items()
    )
    assert torch.equal(zoo.logits(model, inputs), zoo.logits(own, inputs))
    assert model.config.to_dict() == own.config.to_dict()


def test_where_optmerge_is_installed_its_own_classes_are_taken(composed: Path) -> None:
    for trust in (None, True):
        assert type(AutoConfig.from_pretrained(composed, trust_remote_code=trust)) is OmniConfig
        assert (
            type(AutoModel.from_pretrained(composed, trust_remote_code=trust)) is OmniForConditionalGeneration
        )
        assert type(AutoProcessor.from_pretrained(composed, trust_remote_code=trust)) is OmniProcessor


@pytest.mark.parametrize("kind", list(tower_kinds()))
def test_every_kind_of_tower_is_carried_with_all_that_it_imports(kind: str) -> None:
    code = carried_code({"any": tiny.tower(kind, token_id=0)})
    assert list(code) == sorted(code)
    for name, text in code.items():
        for node in ast.walk(ast.parse(text, name)):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert f"{node.module}.py" in code, (name, node.module)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                modules = (
                    [each.name for each in node.names] if isinstance(node, ast.Import) else [node.module]
                )
                assert all(str(module).partition(".")[0] != "optmerge" for module in modules), (name, modules)


def test_carried_files_are_the_packages_but_for_imports_and_registrations() -> None:
    code = carried_code(tiny.config(*KINDS.values()).towers)
    for text in code.values():
        module = text.split()[1]
        if module in GENERATED:
            continue
        file = importlib.import_module(module).__file__
        assert file is not None
        ours = Path(file).read_text("utf-8").splitlines()
        changed = [line for line in difflib.ndiff(ours, text.splitlines()) if line[0] in "+-"]
        added = [line[2:].strip() for line in changed if line[0] == "+"]
        removed = [line[2:].strip() for line in changed if line[0] == "-" and line[2:].strip()]
        assert all(re.match(r"from \.optmerge_\w+ import|# optmerge\.", line) for line in added), added
        assert all(
            re.match(r"from optmerge\.|_?[aA]uto\w*\.register\(|for _auto in", line) for line in removed
        ), removed


def test_a_tower_of_another_package_is_not_carried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(carrying, "tower_module", lambda kind: f"outsider.{kind}")
    model = tiny.model("clip")
    model.config.auto_map = {"AutoConfig": "left_from.Before"}
    zoo.save(model, tmp_path)
    assert not list(tmp_path.glob("*.py"))
    assert "auto_map" not in (tmp_path / "config.json").read_text()
    assert "auto_map" not in (tmp_path / "processor_config.json").read_text()


def test_a_model_saved_again_carries_the_code_again(composed: Path, tmp_path: Path) -> None:
    OmniForConditionalGeneration.from_pretrained(composed).save_pretrained(tmp_path / "again")
    OmniProcessor.from_pretrained(composed).save_pretrained(tmp_path / "again")
    for file in [*composed.glob("*.py"), composed / "processor_config.json"]:
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()
    maps = [
        json.loads((each / "config.json").read_text())["auto_map"] for each in (composed, tmp_path / "again")
    ]
    assert maps[0] == maps[1]


def test_the_hash_of_the_code_is_in_provenance_and_verify_finds_nothing_wrong(composed: Path) -> None:
    code = {path.name: path.read_text("utf-8") for path in composed.glob("*.py")}
    told = json.loads((composed / "optmerge.json").read_text())["code"]
    assert told == {"optmerge": version("optmerge"), "files": sorted(code), "sha256": code_hash(code)}
    found = verify(composed)
    assert found.ok
    assert [check.name for check in found.checks if check.ok is None] == ["deltas"]
    assert {"load", "generate", "code"} <= {check.name for check in found.checks}


def _changed_file(folder: Path) -> None:
    with (folder / "optmerge_omni_model.py").open("a") as file:
        file.write("import os\n")


def _another_file(folder: Path) -> None:
    (folder / "towers" / "helpers.py").write_text("import os\n")


def _missing_file(folder: Path) -> None:
    (folder / "optmerge_errors.py").unlink()


def _another_class(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"]["AutoModel"] = "someone/else--model.Class"
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("change", [_changed_file, _another_file, _missing_file, _another_class])
def test_verify_says_if_the_code_is_not_what_optmerge_writes(
    change: Callable[[Path], None], copied: Path
) -> None:
    change(copied)
    found = code_check(copied)
    assert found.ok is False and "read the code" in found.detail, found


def test_the_code_of_another_version_is_told_and_no_failure(copied: Path) -> None:
    _changed_file(copied)
    record = json.loads((copied / "optmerge.json").read_text())
    record["code"]["optmerge"] = "0.0.9"
    (copied / "optmerge.json").write_text(json.dumps(record))
    found = code_check(copied)
    assert found.ok is None and "0.0.9" in found.detail


def test_nobodys_carried_code_is_run(composed: Path, copied: Path, tmp_path: Path) -> None:
    trap = f"open({str(tmp_path / 'sprung')!r}, 'w')\n"
    for file in copied.glob("*.py"):
        file.write_text(trap + file.read_text("utf-8"), "utf-8")
    for name in ("tokenizer_config.json", "processor_config.json"):
        data = json.loads((copied / name).read_text())
        data["auto_map"] = dict.fromkeys(("AutoTokenizer", "AutoProcessor"), "optmerge_omni.OmniProcessor")
        (copied / name).write_text(json.dumps(data))
    verify(copied)
    llm = str(composed.parent / "llm")
    out = compose({"base": llm, "experts": [str(copied)], "method": "average"}, tmp_path / "out").path
    assert not (tmp_path / "sprung").exists()
    assert code_check(out).ok
