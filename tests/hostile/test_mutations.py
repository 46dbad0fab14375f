"""Sound files with one thing wrong, whatever it is: refused or harmless, by the targets of the fuzzer."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import optmerge
from fuzz.targets import TARGETS, assert_refused_or_read
from optmerge.errors import InputError
from worlds.merges import world
from worlds.samples import examples

SEEDS = Path(__file__).parents[1] / "fuzz" / "corpus"
OF_JSON = ("header", "index", "config", "tokenizer", "adapter_config", "adapter", "provenance", "journal")
OF_YAML = ("recipe", "setting", "card")
LIMITS = settings(
    deadline=None,
    max_examples=examples(few=20, many=300),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

numbers = st.sampled_from([-1, 0, 1, 2, 2**31, 2**63, 2**64, 10**30, -(2**63), 0.5, -0.0, 1e308])
words = st.sampled_from(
    ["", "x", "../x", "/", "\0", "\ud800", "é" * 500, "{}", "1", "true", "F32", "LORA", "("]
)
anything = st.recursive(
    st.none() | st.booleans() | numbers | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=4,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in plain data that could hold something else."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, each in inner for place in places(each, (*path, key)))]


def changed(data: st.DataObject, value: Any) -> Any:
    """Plain data with one to three places that hold something else, or nothing, or have another name."""
    value = deepcopy(value)
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(places(value)))
        if not path:
            continue
        holder = value
        for key in path[:-1]:
            holder = holder[key]
        action = data.draw(st.sampled_from(["replace", "replace", "remove", "rename"]))
        if action == "rename" and isinstance(holder, dict):
            holder[data.draw(words)] = holder.pop(path[-1])
        elif action == "remove":
            del holder[path[-1]]
        else:
            holder[path[-1]] = data.draw(anything)
    return value


def damaged(data: st.DataObject, content: bytes) -> bytes:
    """Bytes with some replaced, doubled, cut out or put in."""
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        length = data.draw(st.integers(0, 12))
        new = data.draw(st.binary(max_size=6) | st.just(content[at : at + length] * 2))
        content = content[:at] + new + content[at + length :]
    return content


def seed_of(data: st.DataObject, name: str) -> bytes:
    return data.draw(st.sampled_from(sorted((SEEDS / name).iterdir()))).read_bytes()


@pytest.mark.sampled
@LIMITS
@given(st.sampled_from(sorted(TARGETS)), st.data())
def test_any_damage_to_its_bytes_is_refused_or_harmless(name: str, data: st.DataObject) -> None:
    assert_refused_or_read(name, damaged(data, seed_of(data, name)))


@pytest.mark.sampled
@pytest.mark.parametrize("name", OF_JSON)
@LIMITS
@given(data=st.data())
def test_any_other_value_in_its_json_is_refused_or_harmless(name: str, data: st.DataObject) -> None:
    content = seed_of(data, name)
    start = content[:1] if name == "adapter" else b""
    lines = []
    for line in content[len(start) :].splitlines() if name == "journal" else [content[len(start) :]]:
        try:
            lines.append(json.dumps(changed(data, json.loads(line))).encode())
        except ValueError:
            lines.append(line)
    assert_refused_or_read(name, start + b"\n".join(lines))


@pytest.mark.sampled
@settings(LIMITS, max_examples=examples(few=10, many=120))
@given(data=st.data())
def test_a_whole_merge_by_any_other_config_is_refused_or_done(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    models = world(tmp_path_factory.mktemp("world"))
    wrong = changed(data, json.loads(seed_of(data, "config")) | {"num_hidden_layers": 2})
    for folder in data.draw(
        st.sampled_from([(models.base,), models.experts, (models.base, *models.experts)])
    ):
        (folder / "config.json").write_text(json.dumps(wrong))
    try:
        optmerge.merge(models.recipe(select={"components": None}), models.out)
    except InputError:
        assert not models.out.exists()


@pytest.mark.sampled
@pytest.mark.parametrize("name", OF_YAML)
@LIMITS
@given(data=st.data())
def test_any_other_value_in_its_yaml_is_refused_or_harmless(name: str, data: st.DataObject) -> None:
    content = seed_of(data, name).replace(b"&a ", b"").replace(b"*a", b"b").replace(b"!!str ", b"")
    if name == "setting":
        pairs = [line.split("=", 1) for line in content.decode().split("\n")]
        loaded = changed(data, {key: yaml.safe_load(value) for key, value in pairs})
        written = "\n".join(f"{key}={json.dumps(each)}" for key, each in loaded.items())
    else:
        written = yaml.safe_dump(changed(data, yaml.safe_load(content)), default_flow_style=None)
    assert_refused_or_read(name, written.encode("utf-8", "surrogatepass"))
