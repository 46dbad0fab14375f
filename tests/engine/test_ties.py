"""Tied weights: stored once, twice or apart, the output holds what transformers would make of the base."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import optmerge
from optmerge.errors import CheckpointError, RecipeError
from worlds.merges import CONFIG, EMBEDDING, HEAD, Tensors, World, load, weights, world

TIED = {**CONFIG, "tie_word_embeddings": True}
ALL_OF_LANGUAGE = {"kinds": None}


def stored_twice(root: Path) -> World:
    base = weights()
    base[HEAD] = base[EMBEDDING].clone()
    models = world(root, base=base, config=TIED)
    for index in (0, 1):
        models.rewrite(index, lambda tensors: tensors.update({HEAD: tensors[EMBEDDING].clone()}))
    return models


def merged(models: World) -> Tensors:
    return load(optmerge.merge(models.recipe(select=ALL_OF_LANGUAGE), models.out).path)


def expected(models: World, name: str) -> torch.Tensor:
    base = models.tensors()[name]
    return base + 0.5 * sum(models.tensors(i)[name] - base for i in (0, 1))


def test_a_head_stored_twice_is_merged_and_written_once(tmp_path: Path) -> None:
    models = stored_twice(tmp_path)
    found = merged(models)

    assert HEAD not in found
    torch.testing.assert_close(found[EMBEDDING], expected(models, EMBEDDING))


def test_a_head_that_only_an_expert_stores_is_no_extra_tensor(tmp_path: Path) -> None:
    models = stored_twice(tmp_path)
    models.rewrite(None, lambda tensors: tensors.pop(HEAD))

    assert HEAD not in merged(models)


def test_a_head_that_only_the_base_stores_is_not_missing(tmp_path: Path) -> None:
    models = stored_twice(tmp_path)
    for index in (0, 1):
        models.rewrite(index, lambda tensors: tensors.pop(HEAD))
    found = merged(models)

    assert HEAD not in found
    torch.testing.assert_close(found[EMBEDDING], expected(models, EMBEDDING))


def test_a_head_stored_with_values_of_its_own_stays_apart(tmp_path: Path) -> None:
    models = world(tmp_path, config=TIED)
    found = merged(models)

    for name in (EMBEDDING, HEAD):
        torch.testing.assert_close(found[name], expected(models, name))


def test_a_head_of_a_config_that_ties_nothing_stays_apart(tmp_path: Path) -> None:
    base = weights()
    base[HEAD] = base[EMBEDDING].clone()
    models = world(tmp_path, base=base)
    found = merged(models)

    torch.testing.assert_close(found[HEAD], expected(models, HEAD))


def large_and_tied(root: Path) -> World:
    base = weights()
    base[EMBEDDING] = torch.randn(4_000, 6)
    base[HEAD] = base[EMBEDDING].clone()
    models = world(root, base=base, config=TIED)
    for index in (0, 1):
        models.rewrite(index, lambda tensors: tensors.update({HEAD: tensors[EMBEDDING].clone()}))
    return models


def test_an_experts_difference_far_from_the_ends_is_noticed_before_anything_is_written(
    tmp_path: Path,
) -> None:
    models = large_and_tied(tmp_path)
    models.rewrite(1, lambda tensors: tensors[HEAD][2_000].add_(1))

    with pytest.raises(CheckpointError, match="'e1' has untied") as caught:
        merged(models)
    assert caught.value.hint is not None and "untie: true" in caught.value.hint
    assert not models.out.exists()


@pytest.mark.parametrize("stored", ["once", "twice"])
def test_an_untied_merge_has_both_ends_of_everyone(tmp_path: Path, stored: str) -> None:
    models = large_and_tied(tmp_path)
    if stored == "once":
        models.rewrite(None, lambda tensors: tensors.pop(HEAD))
    models.rewrite(0, lambda tensors: tensors.pop(HEAD))
    models.rewrite(1, lambda tensors: tensors[HEAD][2_000].add_(1))
    recipe = models.recipe(select=ALL_OF_LANGUAGE, untie=True)
    out = optmerge.merge(recipe, models.out).path
    found, base = load(out), models.tensors()[EMBEDDING]
    heads = models.tensors(0)[EMBEDDING], models.tensors(1)[HEAD]

    torch.testing.assert_close(found[EMBEDDING], expected(models, EMBEDDING))
    torch.testing.assert_close(found[HEAD], base + 0.5 * sum(head - base for head in heads))
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False
    assert optmerge.verify(out, load=False).ok


def test_a_base_without_a_tie_is_not_untied_but_told(tmp_path: Path) -> None:
    models = world(tmp_path)
    plain = load(optmerge.merge(models.recipe(), tmp_path / "plain").path)
    result = optmerge.merge(models.recipe(untie=True), models.out)

    assert any("untie does nothing" in warning for warning in result.warnings)
    assert all(torch.equal(value, plain[name]) for name, value in load(result.path).items())


def test_a_bare_file_cant_be_untied(tmp_path: Path) -> None:
    models = world(tmp_path, config=None)
    with pytest.raises(RecipeError, match="can't be untied"):
        optmerge.plan(models.recipe(untie=True, select={"components": ["other"]}))


def test_an_expert_whose_config_ties_what_the_base_has_apart_has_its_embedding_as_head(
    tmp_path: Path,
) -> None:
    models = world(tmp_path)
    models.rewrite(0, lambda tensors: tensors.pop(HEAD))
    (models.experts[0] / "config.json").write_text(json.dumps(TIED))
    found = merged(models)
    base, heads = models.tensors()[HEAD], (models.tensors(0)[EMBEDDING], models.tensors(1)[HEAD])

    torch.testing.assert_close(found[HEAD], base + 0.5 * sum(head - base for head in heads))


def test_a_difference_far_from_the_ends_is_noticed_before_anything_is_written(tmp_path: Path) -> None:
    base = weights()
    base[EMBEDDING] = torch.randn(4_000, 6)
    base[HEAD] = base[EMBEDDING].clone()
    base[HEAD][2_000] += 1
    models = world(tmp_path, base=base, config=TIED)
    for index in (0, 1):
        models.rewrite(index, lambda tensors: tensors.pop(HEAD))

    with pytest.raises(CheckpointError, match="differ, though the config ties them"):
        merged(models)
    assert not models.out.exists()


def test_an_expert_that_untied_its_head_may_be_told_to_disregard_it(tmp_path: Path) -> None:
    models = stored_twice(tmp_path)
    models.rewrite(0, lambda tensors: tensors[HEAD].add_(1))

    with pytest.raises(CheckpointError, match="has untied") as caught:
        merged(models)
    assert caught.value.hint is not None and "ignore: ['^lm_head" in caught.value.hint
    recipe = models.recipe(select=ALL_OF_LANGUAGE, ignore=[r"^lm_head\.weight$"])
    found = load(optmerge.merge(recipe, models.out).path)
    torch.testing.assert_close(found[EMBEDDING], expected(models, EMBEDDING))
