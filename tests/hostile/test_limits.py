"""Whatever is hostile is refused by the command line with exit code 2, in little time and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from optmerge.cli import run
from worlds.merges import QUERY, World, contents, save_adapter, weights, world
from worlds.samples import EVERYTHING, examples

MOST_SECONDS, MOST_BYTES = 20, 512 << 20
"""Of the processor and of memory, for one command, beside what the interpreter and its libraries take."""

MEGABYTES = 4 if EVERYTHING else 0.1
"""Of hostile text, which takes up to 25 times as much memory once it is parsed."""

WHOLE = examples(few=16, many=1)
"""Recipes as large as are read, or a part of them: PyYAML takes seconds."""

Prepare = Callable[[World], None]


def put(models: World, header: bytes, *, size: int | None = None) -> None:
    """A safetensors file with this header; `size` makes it a sparse file of so many bytes."""
    file = models.experts[0] / "model.safetensors"
    with file.open("wb") as opened:
        opened.write(len(header).to_bytes(8, "little") + header)
        if size is not None:
            opened.truncate(size)


def filled(start: bytes, piece: bytes, end: bytes) -> bytes:
    return start + piece * int(MEGABYTES * 1_000_000 / len(piece)) + end


def headed(start: bytes, piece: bytes, end: bytes) -> Prepare:
    return lambda models: put(models, filled(start, piece, end))


CASES: dict[str, Prepare] = {
    "a header of empty lists": headed(b'{"a":[', b"[],", b"[]]}"),
    "a header of small objects": headed(b'{"a":[', b'{"":0},', b"0]}"),
    "a header of brackets": headed(b'{"a":', b"[", b""),
    "a header of one long name": headed(
        b'{"', b"projector.", b'":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
    ),
    "a header of one endless number": headed(
        b'{"a":{"dtype":"U8","data_offsets":[0,0],"shape":[', b"9", b"]}}"
    ),
}


def case(prepare: Prepare) -> Prepare:
    """Registers a hostile expert by its function's name."""
    CASES[prepare.__name__.replace("_", " ")] = prepare
    return prepare


@case
def a_file_of_a_terabyte_with_a_header_of_zeros(models: World) -> None:
    with (models.experts[0] / "model.safetensors").open("wb") as file:
        file.write((99_999_999).to_bytes(8, "little") + b"{")
        file.truncate(1 << 40)


@case
def a_tensor_of_a_terabyte_that_the_base_has_not(models: World) -> None:
    info = {"dtype": "U8", "shape": [1 << 40], "data_offsets": [0, 1 << 40]}
    header = json.dumps({"huge": info}).encode()
    put(models, header, size=8 + len(header) + (1 << 40))


@case
def an_index_of_empty_lists(models: World) -> None:
    (models.experts[0] / "model.safetensors").unlink()
    (models.experts[0] / "model.safetensors.index.json").write_bytes(
        filled(b'{"weight_map":[', b"[],", b"[]]}")
    )


@case
def a_config_of_empty_lists(models: World) -> None:
    (models.experts[0] / "config.json").write_bytes(filled(b'{"architectures":{"a":[', b"[],", b"[]]}}"))


@case
def a_tokenizer_of_empty_lists(models: World) -> None:
    (models.base / "tokenizer.json").write_text("{}")
    (models.experts[0] / "tokenizer.json").write_bytes(filled(b'{"model":{"vocab":[', b"[],", b"[]]}}"))


@case
def a_tokenizer_of_a_terabyte(models: World) -> None:
    (models.base / "tokenizer.json").write_text("{}")
    with (models.experts[0] / "tokenizer.json").open("wb") as file:
        file.truncate(1 << 40)


@case
def patterns_that_backtrack(models: World) -> None:
    make_adapter(models, {"rank_pattern": {"(a+)+b": 3, "(.*.*.*)*c": 3, "(?:a|a)*d": 3}, "r": 3})


@case
def patterns_that_are_large(models: World) -> None:
    make_adapter(models, {"rank_pattern": {"((a{100}){100}){100}": 2}})


@case
def an_adapter_config_of_empty_lists(models: World) -> None:
    make_adapter(models, {})
    text = filled(b'{"peft_type":"LORA","r":[', b"[],", b"[]]}")
    (models.experts[0] / "adapter_config.json").write_bytes(text)


@case
def a_pickle_in_disguise(models: World) -> None:
    torch.save(weights(), models.experts[0] / "model.safetensors")


@case
def a_link_to_zeros(models: World) -> None:
    file = models.experts[0] / "model.safetensors"
    file.unlink()
    file.symlink_to("/dev/zero")


@case
def a_pipe(models: World) -> None:
    file = models.experts[0] / "config.json"
    file.unlink()
    os.mkfifo(file)


def make_adapter(models: World, settings: dict[str, object]) -> None:
    """Makes an adapter of the expert, whose module's name is as bad as can be for a pattern."""
    for file in models.experts[0].iterdir():
        file.unlink()
    models.experts[0].rmdir()
    save_adapter(models.experts[0], (QUERY,), settings=settings)


LIMITED = """
import json, resource, sys, time
import numba, torch
from optmerge.cli import run
import optmerge.cli.progress, optmerge.engine.merge
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + {memory}, used + {memory}))
for command in json.load(sys.stdin):
    limit = int(time.process_time()) + {seconds}
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
    print(run(command), flush=True)
"""


@pytest.mark.sampled
def test_each_is_refused_within_limits(tmp_path: Path) -> None:
    commands, before = [], {}
    for name, prepare in CASES.items():
        models = world(tmp_path / name)
        prepare(models)
        file = tmp_path / name / "recipe.yaml"
        file.write_text(yaml.safe_dump(models.recipe()))
        commands.append(["merge", str(file), "--out", str(models.out), "-q"])
        before[name] = sorted(str(path) for path in (tmp_path / name).rglob("*"))
    code = LIMITED.format(seconds=MOST_SECONDS, memory=MOST_BYTES)
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(commands), capture_output=True, text=True, check=False
    )
    found = [int(line) for line in done.stdout.splitlines()]
    last = list(CASES)[min(len(found), len(CASES) - 1)]
    assert done.returncode == 0 and len(found) == len(CASES), f"{last}: {done.stderr[-2000:]}"
    assert dict(zip(CASES, found, strict=True)) == dict.fromkeys(CASES, 2)
    assert "Traceback" not in done.stderr
    for name, paths in before.items():
        assert sorted(str(path) for path in (tmp_path / name).rglob("*")) == paths, name


# --- a recipe is hostile all by itself

RECIPES = {
    "billion laughs": "\n".join(["a: &a [x]", *(f"b{n}: &b{n} [{'*a,' * 9}*a]" for n in range(20))]),
    "python objects": "base: !!python/object/new:os.system [touch harmed]\n",
    "python modules": "base: !!python/name:os.system\n",
    "nesting": "base: " + "{a: " * (40_000 // WHOLE),
    "an endless list": "experts: [" + "{}," * (87_000 // WHOLE) + "]",
    "a bomb of blanks": "base: |2\n" + " " * (260_000 // WHOLE),
    "a number to the base 60": "base: " + ":".join(["1"] * (80_000 // WHOLE)),
    "endless keys": "".join(f"k{n}: \n" for n in range(26_000 // WHOLE)),
    "half a character": 'base: "\\ud800"\nexperts: ["\\ud800"]\nmethod: ties\n',
    "a null": 'base: "a\\0b"\nexperts: ["\\0"]\nmethod: ties\n',
}


@pytest.mark.sampled
@pytest.mark.parametrize("text", RECIPES.values(), ids=RECIPES.keys())
def test_a_hostile_recipe_is_refused_soon(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(text, "utf-8")
    started = time.process_time()
    assert run(["merge", "r.yaml", "--out", "out"]) == 2
    assert time.process_time() - started < MOST_SECONDS
    message = capsys.readouterr().err
    assert message.startswith("error: ") and len(message) < 5000 and "Traceback" not in message
    assert list(contents(tmp_path)) == ["r.yaml"]
