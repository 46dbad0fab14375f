"""Code that composed models carry: the package's own, and enough to load the model without the package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from optmerge.omni import OmniForConditionalGeneration, OmniProcessor
from optmerge.omni.compose import compose
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


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("composed")
    llm = zoo.base(home / "llm")
    for seed, (modality, kind) in enumerate(KINDS.items(), 1):
        zoo.full(llm, home / modality, kind, seed=seed)
    experts = [str(home / modality) for modality in KINDS]
    return compose({"base": str(llm), "experts": experts, "method": "average"}, home / "omni").path


def test_a_composed_model_answers_the_same_where_optmerge_is_not_installed(
    composed: Path, tmp_path: Path
) -> None:
    import pickle

    text = "a <video> b <image> c <audio> what ?"
    items: dict[str, Any] = {"images": [tiny.picture()], "audio": [tiny.sound()], "videos": [tiny.clip()]}
    (tmp_path / "asked").write_bytes(pickle.dumps((text, items)))
    answers = tmp_path / "answers.safetensors"
    done = subprocess.run(
        [sys.executable, "-c", OUTSIDE + LOAD, str(composed), str(tmp_path / "asked"), str(answers)],
        env={
            **os.environ,
            "PYTHONPATH": "",
            "HF_MODULES_CACHE": str(tmp_path / "modules"),
            "HF_HUB_OFFLINE": "1",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    told = load_file(answers)
    inputs = OmniProcessor.from_pretrained(composed)(text, **items)
    model = OmniForConditionalGeneration.from_pretrained(composed)
    assert all(torch.equal(told[name], value) for name, value in inputs.items())
    assert torch.equal(told["logits"], zoo.logits(model, inputs))
    assert torch.equal(told["tokens"], model.generate(**inputs, do_sample=False, max_new_tokens=5))
