"""Everything of an output that isn't weights: files of the donor, a model card, and provenance."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import optmerge
from optmerge.engine.output.card import _pipeline_tag
from worlds.merges import CONFIG, NORM, QUERY, TOKENIZER, UP, World, contents, save_adapter, world

FILES: dict[str, str | dict[str, Any]] = {
    "tokenizer.json": TOKENIZER,
    "chat_template.jinja": "{{ messages }}",
    "preprocessor_config.json": {"size": 8},
    "generation_config.json": {"max_length": 9},
    "modeling_ours.py": "raise SystemExit('remote code was run')",
    "README.md": "---\nlicense: apache-2.0\n---\n# Base\n",
    "training_args.bin": "a pickle",
}
CARRIED = {
    "tokenizer.json",
    "chat_template.jinja",
    "preprocessor_config.json",
    "generation_config.json",
    "modeling_ours.py",
}


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def models(tmp_path: Path) -> World:
    models = world(tmp_path, files=FILES)
    for index, folder in enumerate(models.experts):
        (folder / "chat_template.jinja").write_text(f"expert {index}")
    return models


def merged(models: World, **changes: Any) -> dict[str, bytes]:
    return contents(optmerge.merge(models.recipe(**changes), models.out).path)


def card(files: dict[str, bytes]) -> tuple[dict[str, Any], str]:
    _, head, text = files["README.md"].decode().split("---\n", 2)
    return yaml.safe_load(head), text


def test_the_bases_side_files_are_copied_byte_for_byte(models: World) -> None:
    files, base = merged(models), contents(models.base)

    assert set(files) == {*CARRIED, "config.json", "model.safetensors", "README.md", "optmerge.json"}
    assert all(files[name] == base[name] for name in (*CARRIED, "config.json"))


def test_the_donor_may_be_an_expert(models: World) -> None:
    assert merged(models, side_files="e1")["chat_template.jinja"] == b"expert 1"


def test_the_donor_may_be_a_folder_beside_the_recipe(models: World) -> None:
    other = models.root / "templates"
    other.mkdir()
    (other / "chat_template.jinja").write_text("another")
    file = models.root / "recipe.yaml"
    file.write_text(yaml.safe_dump(models.recipe(side_files="./templates")))
    files = contents(optmerge.merge(optmerge.load_recipe(file), models.out).path)

    assert files["chat_template.jinja"] == b"another"
    assert {*CARRIED, "config.json"} <= set(files)


def test_what_an_adapter_as_donor_lacks_comes_from_the_base(models: World) -> None:
    adapter = save_adapter(models.root / "a")
    (adapter / "chat_template.jinja").write_text("the adapter's")
    files = merged(models, experts=[str(adapter)], side_files="a")

    assert files["chat_template.jinja"] == b"the adapter's"
    assert json.loads(files["config.json"]) == CONFIG
    assert set(files) >= CARRIED
    assert not any(name.startswith("adapter_") for name in files)


def test_the_config_of_an_expert_as_donor_tells_the_type_that_was_written(models: World) -> None:
    (models.experts[0] / "config.json").write_text(json.dumps({**CONFIG, "dtype": "bfloat16"}))

    assert json.loads(merged(models, side_files="e0")["config.json"])["dtype"] == "float32"


def test_a_type_asked_for_is_told_in_nested_configs_too(models: World) -> None:
    nested = {**CONFIG, "torch_dtype": "float32", "text_config": {"dtype": "float32", "hidden_size": 6}}
    (models.base / "config.json").write_text(json.dumps(nested))
    found = json.loads(merged(models, dtype="bfloat16")["config.json"])

    assert (found["dtype"], found["torch_dtype"], found["text_config"]["dtype"]) == ("bfloat16",) * 3


def test_the_card_names_base_models_and_their_licence(models: World) -> None:
    for folder in (models.base, models.experts[0]):
        snapshot = models.root / f"models--org--{folder.name}" / "snapshots" / COMMIT
        shutil.copytree(folder, snapshot)
    head, text = card(
        merged(
            models,
            base=str(models.root / "models--org--base" / "snapshots" / COMMIT),
            experts=[str(models.root / "models--org--e0" / "snapshots" / COMMIT), str(models.experts[1])],
        )
    )

    assert head["base_model"] == ["org/base", "org/e0"]
    assert head["base_model_relation"] == "merge"
    assert head["license"] == "apache-2.0"
    assert head["pipeline_tag"] == "text-generation"
    assert f"| org/base@{COMMIT} | base |" in text
    assert "merge" in head["tags"]
    assert "task_arithmetic" in text and "scale 0.5" in text


def test_licences_that_differ_are_listed_and_not_simplified(models: World) -> None:
    (models.experts[1] / "README.md").write_text("---\nlicense: llama3\n---\n")
    head, text = card(merged(models))

    assert head["license"] == "other"
    assert "| e1 | expert `e1` | 1 | llama3 |" in text


def test_a_licence_that_is_not_stated_is_said_so(models: World) -> None:
    (models.experts[1] / "README.md").unlink()
    head, text = card(merged(models))

    assert head["license"] == "other"
    assert "| e1 | expert `e1` | 1 | not stated |" in text


def test_the_card_holds_no_local_path(models: World) -> None:
    folder = models.root / "donor"
    folder.mkdir()
    files = merged(models, side_files=str(folder), experts=[{"model": str(models.experts[0]), "weight": 2}])

    for name in ("README.md", "optmerge.json"):
        assert str(models.root).encode() not in files[name]


def test_models_that_are_not_on_the_hub_are_no_links(models: World) -> None:
    head, _ = card(merged(models))

    assert "base_model" not in head and "base_model_relation" not in head


def test_the_cards_recipe_runs_where_its_placeholders_are_replaced(models: World) -> None:
    other = models.root / "other" / "e0"  # of the same name; the names seed the masks
    shutil.copytree(models.experts[1], other)
    method = {"name": "dare_ties", "seed": 3}
    files = merged(models, method=method, experts=[str(models.experts[0]), str(other)])
    _, text = card(files)
    recipe = text.split("```yaml\n")[1].split("```")[0]
    for name, folder in {"base": models.base, "e0-2": other, "e0": models.experts[0]}.items():
        assert f"`path/to/{name}`" in text
        recipe = recipe.replace(f"path/to/{name}\n", f"{folder}\n")
    again = optmerge.merge(yaml.safe_load(recipe), models.root / "again").path

    assert contents(again)["model.safetensors"] == files["model.safetensors"]


def test_the_card_loads_the_model_with_its_class_and_its_processor(models: World) -> None:
    _, text = card(merged(models))

    assert "from transformers import AutoProcessor, LlamaForCausalLM" in text
    compile(text.split("```python\n")[1].split("```")[0], "card", "exec")


@pytest.mark.parametrize(
    ("config", "tag"),
    [
        (
            {"architectures": ["Qwen2VLForConditionalGeneration"], "vision_config": {"a": 1}},
            "image-text-to-text",
        ),
        (
            {"architectures": ["Qwen2AudioForConditionalGeneration"], "audio_config": {"a": 1}},
            "audio-text-to-text",
        ),
        ({"architectures": ["CLIPModel"], "vision_config": {"a": 1}}, "zero-shot-image-classification"),
        ({"architectures": ["WhisperForConditionalGeneration"]}, "automatic-speech-recognition"),
        ({"architectures": ["T5ForConditionalGeneration"]}, None),
        ({}, None),
    ],
)
def test_the_pipeline_tag_is_said_where_the_class_tells_it(config: dict[str, Any], tag: str | None) -> None:
    assert _pipeline_tag(config) == tag


def test_provenance_says_what_was_done_to_every_tensor_and_why(models: World) -> None:
    rules = [{"match": {"kinds": ["norm"]}, "copy_from": "e0"}]
    found = json.loads(merged(models, rules=rules)["optmerge.json"])

    assert found["tensors"].keys() == models.tensors().keys()
    assert found["tensors"][QUERY] == {
        "action": "merge",
        "reason": "selected",
        "method": "task_arithmetic",
        "group": 0,
    }
    assert found["tensors"][NORM]["source"] == "e0"
    assert found["counts"] == {"merge": 6, "copy": 5, "alias": 0}


def test_provenance_holds_recipe_versions_identities_and_files(models: World) -> None:
    files = merged(models)
    found = json.loads(files["optmerge.json"])

    recipe = optmerge.Recipe.model_validate(found["recipe"])
    assert [recipe.base, *(each.model for each in recipe.experts)] == ["base", "e0", "e1"]
    assert recipe.method == optmerge.plan(models.recipe()).recipe.method and found["format"] == 2
    assert {"optmerge", "torch", "python"} <= found["versions"].keys()
    assert len({found["base"]["identity"], *(expert["identity"] for expert in found["experts"])}) == 3
    assert sorted(found["files"]) == sorted(files)
    assert found["methods"][0]["scale"] == 0.5


def test_a_base_that_is_a_bare_file_gives_no_side_files(models: World) -> None:
    files = merged(
        models, base=str(models.base / "model.safetensors"), select={"components": ["other"], "include": [UP]}
    )

    assert sorted(files) == ["README.md", "model.safetensors", "optmerge.json"]
