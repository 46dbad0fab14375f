"""Models of different vocabularies: refused, kept at the base's, or united as if they had been resized."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import tokenizers
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import optmerge
from optmerge.checkpoints.checkpoint import open_checkpoint
from optmerge.engine.merge import Options
from optmerge.engine.output import dense
from optmerge.engine.plan import TensorPlan
from optmerge.engine.planning.cost import BLOCK_BYTES, PURSUIT_BYTES
from optmerge.engine.running.budget import around_tensors
from optmerge.engine.running.token_rows import _gathered
from optmerge.errors import CheckpointError, RecipeError
from worlds.merges import (
    CONFIG,
    EMBEDDING,
    HEAD,
    QUERY,
    VOCABULARY,
    WIDTH,
    Tensors,
    World,
    contents,
    load,
    save,
    tuned,
    watching,
    weights,
    world,
)
from worlds.models import build

ALL_OF_LANGUAGE = {"kinds": None}
ENDS = (EMBEDDING, HEAD)


def entry(token: str, index: int, *, special: bool = False) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": token, **flags, "special": special}


def tokenizer(added: Sequence[str] = (), tokens: int = VOCABULARY) -> dict[str, Any]:
    words = {f"t{index}": index for index in range(tokens)}
    return {
        "version": "1.0",
        "added_tokens": [entry(token, tokens + place) for place, token in enumerate(added)],
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "t0"},
    }


def resized(tensors: Tensors, rows: int, seed: int) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    more = rows - VOCABULARY
    return tensors | {
        name: torch.cat([tensors[name], torch.randn(more, WIDTH, generator=generator)]) for name in ENDS
    }


def grown(root: Path, added: Sequence[Sequence[str]], base: Tensors | None = None) -> World:
    """A base, and experts with added tokens and a row for each."""
    start = base or weights()
    save(root / "base", start, files={"tokenizer.json": tokenizer()})
    experts = []
    for place, tokens in enumerate(added):
        rows = VOCABULARY + len(tokens)
        tensors = resized(tuned(start, place), rows, seed=place)
        config = {**CONFIG, "vocab_size": rows}
        experts.append(
            save(root / f"e{place}", tensors, config=config, files={"tokenizer.json": tokenizer(tokens)})
        )
    return World(root, root / "base", tuple(experts))


def merged(models: World, **changes: Any) -> Tensors:
    recipe = models.recipe(select=ALL_OF_LANGUAGE, **changes)
    return load(optmerge.merge(recipe, models.out).path)


def expected(
    models: World, name: str, rows: int, places: Sequence[Mapping[int, int]], start: Tensor
) -> Tensor:
    """Task arithmetic of models resized to the output's rows.

    Args:
        models: the base and the experts.
        name: an end.
        rows: of the output.
        places: row of the output → row of the expert, for each expert's new tokens.
        start: (new tokens, width) the base's new rows.
    """
    base = torch.cat([models.tensors()[name], start])
    total = torch.zeros(rows, WIDTH)
    for index, place in enumerate(places):
        expert = base.clone()
        own = models.tensors(index)[name]
        expert[:VOCABULARY] = own[:VOCABULARY]
        for row, theirs in place.items():
            expert[row] = own[theirs]
        total += expert - base
    return base + 0.5 * total


def test_a_union_is_the_merge_of_resized_models(tmp_path: Path) -> None:
    models = grown(tmp_path, [["<a>", "<s>"], ["<b>", "<s>", "<c>"]])
    places = [{12: 12, 13: 13}, {14: 12, 13: 13, 15: 14}]
    found = merged(models, vocabulary="union")
    for name in ENDS:
        own = [models.tensors(index)[name] for index in (0, 1)]
        start = torch.stack([own[0][12], (own[0][13] + own[1][13]) / 2, own[1][12], own[1][14]])
        torch.testing.assert_close(found[name], expected(models, name, 16, places, start))
    config = json.loads((models.out / "config.json").read_text())
    data = json.loads((models.out / "tokenizer.json").read_text())
    assert config["vocab_size"] == 16
    assert [(each["content"], each["id"]) for each in data["added_tokens"]] == [
        ("<a>", 12),
        ("<s>", 13),
        ("<b>", 14),
        ("<c>", 15),
    ]
    assert optmerge.verify(models.out, load=False).ok


def test_a_token_of_one_expert_keeps_its_row_where_embeddings_are_copied(tmp_path: Path) -> None:
    models = grown(tmp_path, [["<a>"], ["<b>"]])
    found = load(optmerge.merge(models.recipe(vocabulary="union"), models.out).path)
    for name in ENDS:
        assert torch.equal(found[name][:VOCABULARY], models.tensors()[name])
        assert torch.equal(found[name][12], models.tensors(0)[name][12])
        assert torch.equal(found[name][13], models.tensors(1)[name][12])


def test_unknown_rows_start_at_the_mean_if_asked(tmp_path: Path) -> None:
    models = grown(tmp_path, [["<a>"], []])
    found = merged(models, vocabulary={"tokens": "union", "unknown": "mean"})
    for name in ENDS:
        start = models.tensors()[name].mean(0, keepdim=True)
        torch.testing.assert_close(found[name], expected(models, name, 13, [{12: 12}, {}], start))


def test_omp_finds_the_combination_in_the_base(tmp_path: Path) -> None:
    """The expert's coordinates are turned: a combination of two of its rows becomes that of the base's."""
    models = grown(tmp_path, [["<a>"]])
    turn = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(5)))[0]
    base = models.tensors()

    def rotate(tensors: Tensors) -> None:
        for name in ENDS:
            rows = base[name] @ turn
            tensors[name] = torch.cat([rows, (2 * rows[3] - rows[7])[None]])

    models.rewrite(0, rotate)
    recipe = models.recipe(vocabulary={"tokens": "union", "unknown": "omp"})
    found = load(optmerge.merge(recipe, models.out).path)
    for name in ENDS:
        wanted = 2 * base[name][3] - base[name][7]
        torch.testing.assert_close(found[name][12], wanted, rtol=1e-4, atol=1e-4)


def test_the_bases_vocabulary_drops_other_rows_and_says_so(tmp_path: Path) -> None:
    models = grown(tmp_path, [["<a>"], ["<b>"]])
    recipe = models.recipe(select=ALL_OF_LANGUAGE, vocabulary="base")
    result = optmerge.merge(recipe, models.out)
    for name in ENDS:
        wanted = expected(models, name, VOCABULARY, [{}, {}], torch.empty(0, WIDTH))
        torch.testing.assert_close(load(models.out)[name], wanted)
    assert sum("dropped" in warning and "'<" in warning for warning in result.warnings) == 2
    assert (models.out / "tokenizer.json").read_bytes() == (models.base / "tokenizer.json").read_bytes()


def test_rows_meet_by_token_where_ids_differ(tmp_path: Path) -> None:
    straight, turned = grown(tmp_path / "straight", [[], []]), grown(tmp_path / "turned", [[], []])
    order = [*range(10), 11, 10]
    words = {f"t{token}": place for place, token in enumerate(order)}
    data = {**tokenizer(), "model": {"type": "WordLevel", "vocab": words}}
    (turned.experts[0] / "tokenizer.json").write_text(json.dumps(data))
    turned.rewrite(0, lambda tensors: tensors.update({name: tensors[name][order] for name in ENDS}))

    with pytest.raises(CheckpointError, match="another vocabulary"):
        merged(turned)
    found, wanted = merged(turned, vocabulary="base"), merged(straight)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_equal_vocabularies_are_merged_as_ever(tmp_path: Path) -> None:
    models = grown(tmp_path, [[], []])
    strict = optmerge.merge(models.recipe(select=ALL_OF_LANGUAGE), tmp_path / "strict").path
    union = optmerge.merge(models.recipe(select=ALL_OF_LANGUAGE, vocabulary="union"), tmp_path / "union").path
    same = ("model.safetensors", "config.json", "tokenizer.json")
    assert all(contents(strict)[name] == contents(union)[name] for name in same)


@pytest.mark.parametrize("method", ["average", "ties", "dare_ties", "slerp", "optmerge"])
def test_no_budget_changes_a_united_byte(method: str, tmp_path: Path) -> None:
    models = grown(tmp_path, [["<a>", "<s>"], ["<b>", "<s>"]])
    recipe = models.recipe(select=ALL_OF_LANGUAGE, vocabulary="union", method=method)
    first = load(optmerge.merge(recipe, tmp_path / "first").path)
    again = load(optmerge.merge(recipe, tmp_path / "again", Options(memory="4GiB")).path)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert first[EMBEDDING].shape == (15, WIDTH) and bool(torch.isfinite(first[HEAD]).all())


def test_the_plan_counts_rows_that_are_made(tmp_path: Path) -> None:
    models = grown(tmp_path, [["<a>"], ["<b>"]])

    def beside(**vocabulary: str) -> int:
        return optmerge.plan(models.recipe(vocabulary={"tokens": "union", **vocabulary})).cost.beside_bytes

    assert optmerge.plan(models.recipe(vocabulary="base")).cost.beside_bytes == 0
    assert 2 * BLOCK_BYTES < beside() < 3 * BLOCK_BYTES < 2 * PURSUIT_BYTES < beside(unknown="omp")
    with pytest.raises(RecipeError, match="budget can't be kept"):
        optmerge.merge(
            models.recipe(vocabulary={"tokens": "union", "unknown": "omp"}),
            models.out,
            Options(memory=around_tensors() + PURSUIT_BYTES),
        )


def test_rows_that_are_permuted_a_little_are_read_together(tmp_path: Path) -> None:
    table = torch.randn(64, 3)
    save(tmp_path / "m", {"x": table}, config=None)
    rows = np.array([3, 1, 2, -1, 0, 9, 8, 10, -1, 8])
    with open_checkpoint(tmp_path / "m").reader() as reader:
        told: list[tuple[int, int]] = []
        read = reader.read_flat
        reader.read_flat = lambda name, start, stop: told.append((start, stop)) or read(name, start, stop)
        found = _gathered(reader, "x", rows, 3)
    expected = table[torch.from_numpy(rows)]
    expected[torch.from_numpy(rows) < 0] = 0
    assert torch.equal(found, expected) and told == [(0, 12), (24, 27), (24, 33)]


class Stop(BaseException):
    """Neither an `Exception` nor anything the engine knows, as a signal's would be."""


@pytest.mark.parametrize("unknown", ["owners", "omp"])
@pytest.mark.parametrize("after", [1, 4, 7, 10])
def test_no_interruption_changes_a_united_byte(
    after: int, unknown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense, "SYNC_SECONDS", 0.0)
    models = grown(tmp_path, [["<a>", "<s>"], ["<b>", "<s>"]])
    vocabulary = {"tokens": "union", "unknown": unknown}
    recipe = models.recipe(select=ALL_OF_LANGUAGE, vocabulary=vocabulary, method="dare_ties")
    written: list[str] = []

    def count(tensor: TensorPlan, size: int) -> None:
        written.append(tensor.name)
        if len(written) == after:
            raise Stop

    with pytest.raises(Stop):
        optmerge.merge(recipe, models.out, Options(), watching(count))
    assert not (models.out / "config.json").exists()
    resumed = optmerge.merge(recipe, models.out, Options(mode="resume"))

    assert resumed.resumed_tensors >= after - 1
    assert contents(models.out) == contents(optmerge.merge(recipe, tmp_path / "whole").path)


# --- adapters and transformers


def word_level(tokens: int, added: Sequence[str], folder: Path) -> None:
    """A tokenizer of words, saved as transformers does."""
    words = {f"t{index}": index for index in range(tokens)}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="t0"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=model, unk_token="t0")
    fast.add_special_tokens({"additional_special_tokens": list(added)} if added else {})
    fast.save_pretrained(folder)


HOW: dict[str, dict[str, Any]] = {
    "whole": {"modules_to_save": ["embed_tokens", "lm_head"], "target_modules": ["q_proj"]},
    "lora": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "lora beside": {"target_modules": ["q_proj"]},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", HOW)
def test_an_adapter_with_tokens_of_its_own_computes_what_peft_does(how: str, tmp_path: Path) -> None:
    base = build("llama").eval()
    base.save_pretrained(tmp_path / "base")
    word_level(96, [], tmp_path / "base")
    larger = copy.deepcopy(base)
    larger.resize_token_embeddings(98)
    model = peft.get_peft_model(larger, peft.LoraConfig(r=4, lora_alpha=8, **HOW[how]))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=how != "whole")
    word_level(96, ["<a>", "<b>"], tmp_path / "adapter")
    recipe = {
        "base": str(tmp_path / "base"),
        "experts": [str(tmp_path / "adapter")],
        "method": {"name": "task_arithmetic", "scale": 1},
        "select": ALL_OF_LANGUAGE,
        "vocabulary": "union",
    }
    out = optmerge.merge(recipe, tmp_path / "out").path
    loaded = AutoModelForCausalLM.from_pretrained(out).eval()
    ids = AutoTokenizer.from_pretrained(out)("t5 <b> t7 <a>", return_tensors="pt").input_ids

    assert ids.tolist() == [[5, 97, 7, 96]] and loaded.config.vocab_size == 98
    with torch.no_grad():
        live = model.eval()(input_ids=ids).logits
        torch.testing.assert_close(loaded(input_ids=ids).logits, live, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_a_text_of_new_tokens_meets_the_rows_of_their_experts(tmp_path: Path) -> None:
    base = build("llama")
    folders = [tmp_path / name for name in ("base", "e0", "e1")]
    added: list[list[str]] = [[], ["<a>"], ["<b>", "<a>"]]
    experts = []
    for folder, tokens in zip(folders, added, strict=True):
        model = copy.deepcopy(base)
        model.resize_token_embeddings(96 + len(tokens))
        model.save_pretrained(folder)
        word_level(96, tokens, folder)
        experts.append(model.get_input_embeddings().weight)
    recipe = {
        "base": str(folders[0]),
        "experts": [str(folder) for folder in folders[1:]],
        "method": "average",
        "vocabulary": "union",
    }
    out = optmerge.merge(recipe, tmp_path / "out").path
    found = AutoTokenizer.from_pretrained(out)
    rows = AutoModelForCausalLM.from_pretrained(out).get_input_embeddings()(
        found("<b> t3 <a>", return_tensors="pt").input_ids
    )[0]

    both = (experts[1][96] + experts[2][97]) / 2
    torch.testing.assert_close(rows, torch.stack([experts[2][96], experts[0][3], both]))
    assert {"<a>", "<b>"} <= set(found.all_special_tokens)
    assert optmerge.verify(out).ok


# --- padding


def test_new_tokens_take_padding_rows_first(tmp_path: Path) -> None:
    models = grown(tmp_path, [["<a>"]])
    for folder in (models.base, *models.experts):
        tokens = tokenizer(["<a>"] if folder != models.base else [], tokens=10)
        (folder / "tokenizer.json").write_text(json.dumps(tokens))
    models.rewrite(0, lambda tensors: tensors.update({name: tensors[name][:VOCABULARY] for name in ENDS}))
    found = merged(models, vocabulary="union")
    for name in ENDS:
        base, own = models.tensors()[name], models.tensors(0)[name]
        wanted = base + 0.5 * (own - base)
        wanted[10] = own[10]
        torch.testing.assert_close(found[name], wanted)
    assert json.loads((models.out / "config.json").read_text())["vocab_size"] == VOCABULARY


def test_a_padded_base_is_padded_again(tmp_path: Path) -> None:
    new = [f"<{index}>" for index in range(5)]
    models = grown(tmp_path, [new])
    for folder in (models.base, *models.experts):
        (folder / "tokenizer.json").write_text(
            json.dumps(tokenizer(new if folder != models.base else [], 10))
        )
    models.rewrite(0, lambda tensors: tensors.update({name: tensors[name][:15] for name in ENDS}))
    found = merged(models, vocabulary="union")
    assert all(found[name].shape == (16, WIDTH) for name in ENDS)  # 15 to a multiple of 4, as 12 is
    assert torch.equal(found[HEAD][15], models.tensors()[HEAD][11])


# --- what can't be, and what is said


def test_two_experts_that_share_an_id_are_refused_with_the_way_out(tmp_path: Path) -> None:
    models = grown(tmp_path, [["<a>"], ["<b>"]])
    for index in (0, 1):
        models.rewrite(index, lambda tensors: tensors.update({n: tensors[n][:VOCABULARY] for n in ENDS}))
    with pytest.raises(CheckpointError, match="than the experts before it") as caught:
        optmerge.plan(models.recipe())
    assert caught.value.hint is not None and "vocabulary: union" in caught.value.hint


def test_tokens_that_the_output_loses_are_said(tmp_path: Path) -> None:
    models = world(tmp_path, files={"tokenizer.json": tokenizer(tokens=10)})
    (models.experts[0] / "tokenizer.json").write_text(json.dumps(tokenizer(["<a>"], tokens=10)))
    warnings = optmerge.plan(models.recipe()).warnings
    assert any("'e0' has 1 token ('<a>') that the output's tokenizer lacks" in each for each in warnings)


def test_a_shape_that_differs_has_the_way_out(tmp_path: Path) -> None:
    models = grown(tmp_path, [["<a>"]])
    with pytest.raises(CheckpointError, match="another shape") as caught:
        optmerge.plan(models.recipe())
    assert caught.value.hint is not None and "vocabulary: union" in caught.value.hint


def test_the_plan_counts_what_becomes_of_tokens(tmp_path: Path) -> None:
    models = grown(tmp_path, [["<a>", "<s>"], ["<b>", "<s>"]])
    plan = optmerge.plan(models.recipe(vocabulary="union"))
    (said,) = [each for each in plan.warnings if each.startswith("vocabulary")]
    assert "3 tokens added ('<a>' → 12, '<s>' → 13, '<b>' → 14), 1 of them by several experts" in said
    assert "1 ids stood for different ones (12: '<a>', '<b>')" in said
    assert plan.plain()["vocabulary"] == {"rows": 15, "added": {"<a>": 12, "<s>": 13, "<b>": 14}}


def refusal(models: World, **changes: Any) -> str:
    with pytest.raises((CheckpointError, RecipeError)) as caught:
        optmerge.plan(models.recipe(vocabulary="union", **changes))
    assert not models.out.exists()
    return str(caught.value)


def test_a_base_with_sentencepiece_alone_is_refused(tmp_path: Path) -> None:
    models = grown(tmp_path, [["<a>"]])
    (models.base / "tokenizer.json").rename(models.base / "tokenizer.model")
    assert "tokenizer.model alone" in refusal(models)


def test_an_expert_of_other_length_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    models = grown(tmp_path, [["<a>"]])
    (models.experts[0] / "tokenizer.json").unlink()
    assert "no tokenizer" in refusal(models)


def test_ids_beyond_the_rows_are_refused(tmp_path: Path) -> None:
    models = grown(tmp_path, [["<a>"]])
    (models.experts[0] / "tokenizer.json").write_text(json.dumps(tokenizer(["<a>", "<b>"])))
    assert "without a row" in refusal(models)
    optmerge.plan(models.recipe(vocabulary="base"))


def test_another_model_of_splitting_cant_be_united(tmp_path: Path) -> None:
    models = grown(tmp_path, [["<a>"]])
    pieces = [[f"t{index}", -1.0] for index in range(VOCABULARY)] + [["new", -2.0]]
    data = {"model": {"type": "Unigram", "vocab": pieces}, "added_tokens": []}
    (models.experts[0] / "tokenizer.json").write_text(json.dumps(data))
    assert "'new' in the vocabulary of its Unigram model" in refusal(models)


def test_an_id_that_the_config_uses_is_not_given_away(tmp_path: Path) -> None:
    models = grown(tmp_path, [["<a>"]])
    (models.base / "config.json").write_text(json.dumps({**CONFIG, "image_token_index": VOCABULARY}))
    assert "image_token_index is 12" in refusal(models)


@pytest.mark.parametrize(
    "added", [[{"id": -1, "content": "x"}], [{"id": 1 << 60, "content": "x"}], [{"id": "1", "content": "x"}]]
)
def test_strange_ids_are_refused(added: list[Any], tmp_path: Path) -> None:
    models = grown(tmp_path, [["<a>"]])
    (models.experts[0] / "tokenizer.json").write_text(json.dumps({**tokenizer(), "added_tokens": added}))
    assert "can't be understood" in refusal(models)


@pytest.mark.parametrize("change", [{"output": "adapter"}, {"side_files": "e0"}])
def test_a_union_goes_into_a_whole_checkpoint_with_the_bases_files(
    change: dict[str, Any], tmp_path: Path
) -> None:
    assert "vocabulary" in refusal(grown(tmp_path, [["<a>"]]), **change)


def test_a_tied_base_is_united_too(tmp_path: Path) -> None:
    base = weights()
    del base[HEAD]
    models = grown(tmp_path, [["<a>"]], base | {HEAD: base[EMBEDDING].clone()})
    for folder in (models.base, *models.experts):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    models.rewrite(None, lambda tensors: tensors.pop(HEAD))
    models.rewrite(0, lambda tensors: tensors.pop(HEAD))
    found = merged(models, vocabulary="union")
    assert HEAD not in found and torch.equal(found[EMBEDDING][12], models.tensors(0)[EMBEDDING][12])
    assert QUERY in found
