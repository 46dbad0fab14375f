"""What is fuzzed: each target puts bytes where a hostile file would be and opens it.

The property is the same everywhere: an `InputError`, or success; soon, and in little memory.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

import optmerge
from optmerge.checkpoints.adapters import open_adapter
from optmerge.checkpoints.checkpoint import open_checkpoint
from optmerge.checkpoints.safetensors_format import read_header
from optmerge.engine.output.card import _card_head
from optmerge.engine.output.folder import PROVENANCE, STATE, OutputFolder, finished_fingerprint
from optmerge.engine.planning.request import check_recipe
from optmerge.engine.verify.checks import verify
from optmerge.errors import InputError
from optmerge.recipe import override, parse_recipe, read_recipe_data

Target = Callable[[bytes], None]
TARGETS: dict[str, Target] = {}

MOST_PAYLOAD, MOST_SECONDS = 1 << 20, 10
WEIGHTS = {
    "model.embed_tokens.weight": torch.zeros(4, 2),
    "model.layers.0.self_attn.q_proj.weight": torch.zeros(2, 2),
    "model.layers.0.mlp.down_proj.weight": torch.zeros(2, 3),
    "model.norm.weight": torch.zeros(2),
    "lm_head.weight": torch.zeros(4, 2),
}
MODULE = "base_model.model.model.layers.0.mlp.down_proj"
FACTORS = {f"{MODULE}.lora_A.weight": torch.zeros(2, 3), f"{MODULE}.lora_B.weight": torch.zeros(2, 2)}
CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
ADAPTER_CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
TOKENIZER = {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"id": 2, "content": "c"}]}


def target(function: Target) -> Target:
    """Registers a target whose wrong input is refused, and soon."""

    def run(data: bytes) -> None:
        started = time.process_time()
        try:
            function(data)
        except InputError as problem:
            assert len(str(problem)) < 10_000, "a message without end"
        assert time.process_time() - started < MOST_SECONDS, "no end"

    TARGETS[function.__name__] = run
    return function


def assert_refused_or_read(name: str, data: bytes) -> None:
    """Gives bytes to a target: what it can't read is an `InputError`, soon, in few words."""
    TARGETS[name](data)


@cache
def root() -> Path:
    """A folder for this process."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="optmerge-fuzz-", dir=memory if memory.is_dir() else None))


@cache
def folder(name: str) -> Path:
    """A model's folder; what isn't fuzzed in it is in order."""
    path = root() / name
    path.mkdir()
    if name == "adapter":
        save_file(FACTORS, path / "adapter_model.safetensors")
        (path / "adapter_config.json").write_text(json.dumps(ADAPTER_CONFIG))
        return path
    if name == "sharded":
        names = list(WEIGHTS)
        for file, part in (("one", names[:2]), ("two", names[2:])):
            save_file({each: WEIGHTS[each] for each in part}, path / f"{file}.safetensors")
    else:
        save_file(WEIGHTS, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(CONFIG))
    return path


def plan(expert: Path, base: Path | None = None) -> None:
    """Opens base and expert, matches them, and decides everything."""
    models = {"base": str(base or folder("base")), "experts": [str(expert)]}
    optmerge.plan({**models, "method": "task_arithmetic"})


def safetensors(text: bytes) -> bytes:
    """A file with this header, and as many bytes of data as it asks for, as far as that is sane."""
    return len(text).to_bytes(8, "little") + text + bytes(_payload(text))


def _payload(text: bytes) -> int:
    try:
        ends = [entry["data_offsets"][1] for key, entry in json.loads(text).items() if key[:2] != "__"]
        return int(max(0, min(MOST_PAYLOAD, max(ends, default=0))))
    except (ArithmeticError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return 0


@target
def file(data: bytes) -> None:
    """A safetensors file, byte by byte."""
    path = root() / "file.safetensors"
    path.write_bytes(data)
    _same_as_the_library(path)


@target
def header(data: bytes) -> None:
    """The JSON in a safetensors file's head, its length and the data's made right."""
    path = root() / "header.safetensors"
    path.write_bytes(safetensors(data))
    _same_as_the_library(path)


def _same_as_the_library(path: Path) -> None:
    """What is accepted here, the library accepts too, and sees the same in it.

    But for JSON's `-0`, which is a whole number to Python and none to Rust.
    """
    found = read_header(path)
    if b"-0" in path.read_bytes():
        return
    with safe_open(path, "pt") as theirs:
        assert set(theirs.keys()) == set(found.tensors), "other tensors"
        for name, info in found.tensors.items():
            part = theirs.get_slice(name)
            assert tuple(part.get_shape()) == info.shape and part.get_dtype() == info.dtype, name
    with open_checkpoint(path).reader() as reader:
        for name in found.tensors:
            reader.read(name)


@target
def index(data: bytes) -> None:
    """The index of two shards."""
    (folder("sharded") / "model.safetensors.index.json").write_bytes(data)
    open_checkpoint(folder("sharded"))


@target
def config(data: bytes) -> None:
    """config.json of a base and of its expert."""
    for name in ("base", "expert"):
        (folder(f"{name}-config") / "config.json").write_bytes(data)
    plan(folder("expert-config"))
    plan(folder("expert"), base=folder("base-config"))
    plan(folder("expert-config"), base=folder("base-config"))


@target
def tokenizer(data: bytes) -> None:
    """tokenizer.json of an expert."""
    (folder("base-tokenizer") / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    (folder("expert-tokenizer") / "tokenizer.json").write_bytes(data)
    plan(folder("expert-tokenizer"), base=folder("base-tokenizer"))


@target
def adapter_config(data: bytes) -> None:
    """adapter_config.json beside sound weights."""
    path = folder("adapter")
    (path / "adapter_config.json").write_bytes(data)
    _use_adapter(path)


@target
def adapter(data: bytes) -> None:
    """The header of an adapter's weights beside a sound configuration; the first byte chooses which."""
    path = root() / "adapter-header"
    path.mkdir(exist_ok=True)
    choice = data[0] if data else 0
    flags = {"use_dora": bool(choice & 1), "fan_in_fan_out": bool(choice & 2), "use_rslora": bool(choice & 4)}
    (path / "adapter_config.json").write_text(json.dumps({**ADAPTER_CONFIG, **flags}))
    (path / "adapter_model.safetensors").write_bytes(safetensors(data[1:]))
    _use_adapter(path)


def _use_adapter(path: Path) -> None:
    opened = open_adapter(path)
    for name, found in opened.targets.items():
        if max(found.shape, default=0) < 1 << 10 and len(found.shape) < 5:
            opened.delta(name, lambda shape=found.shape: torch.zeros(shape))
    plan(path)


@target
def recipe(data: bytes) -> None:
    """A recipe's YAML."""
    path = root() / "recipe.yaml"
    path.write_bytes(data)
    check_recipe(parse_recipe(read_recipe_data(path)))


@target
def setting(data: bytes) -> None:
    """What follows `--set`, one assignment per line."""
    base: dict[str, Any] = {"base": "b", "experts": ["x", {"model": "y", "weight": 2}], "method": "ties"}
    lines = data.decode("utf-8", "replace").split("\n")
    check_recipe(parse_recipe(override(base, lines)))


@target
def card(data: bytes) -> None:
    """The head of a model card, from which licence and task are taken."""
    (folder("card") / "README.md").write_bytes(b"---\n" + data + b"\n---\n")
    _card_head(folder("card"))


@target
def provenance(data: bytes) -> None:
    """optmerge.json of a folder that is verified, resumed and overwritten."""
    verified, overwritten, beside = folder("provenance"), root() / "overwritten", root() / "beside"
    overwritten.mkdir(exist_ok=True)
    beside.touch()
    for path in (verified, overwritten):
        (path / PROVENANCE).write_bytes(data)
        finished_fingerprint(path)
    verify(verified, load=False, base=folder("base"))
    with OutputFolder(overwritten, "fingerprint", {}, "overwrite") as output:
        output.publish()
    assert beside.exists(), "a file outside the folder is gone"


@target
def journal(data: bytes) -> None:
    """The journal of an unfinished merge."""
    path = root() / "unfinished"
    (path / STATE).mkdir(parents=True, exist_ok=True)
    (path / STATE / "journal.jsonl").write_bytes(data)
    with OutputFolder(path, "fingerprint", {"recipe": "0"}, "resume") as output:
        output.record({"a tensor": {}})
    with OutputFolder(path, "fingerprint", {"recipe": "0"}, "resume") as output:
        assert "a tensor" in output.written, "a line was lost behind a broken one"
