"""Whatever is wrong with the input: exit code 2, one message of what, where and next, and nothing written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from optmerge.cli import run
from worlds.merges import (
    CONFIG,
    EMBEDDING,
    HEAD,
    NORM,
    QUERY,
    TOKENIZER,
    UP,
    WIDTH,
    World,
    contents,
    save,
    save_adapter,
    tuned,
    weights,
    world,
)
from worlds.messages import broken_laws


@dataclass
class Case:
    """A merge about to be asked for: by a recipe, or by the text in its place, and options after it."""

    models: World
    recipe: dict[str, Any]
    text: str | None = None
    options: list[str] = field(default_factory=list)

    @property
    def root(self) -> Path:
        return self.models.root

    def run(self) -> int:
        file = self.root / "recipe.yaml"
        if self.text != "":
            file.write_text(self.text or yaml.safe_dump(self.recipe), "utf-8")
        return run(["merge", str(file), "--out", str(self.models.out), *self.options])

    def config(self, index: int | None, **changes: Any) -> None:
        folder = self.models.base if index is None else self.models.experts[index]
        (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))

    def adapters(self, *targets: str, **options: Any) -> None:
        """Two adapters in the place of the experts."""
        folders = [
            save_adapter(self.root / f"a{seed}", targets or (QUERY, UP), seed=seed, **options)
            for seed in (0, 1)
        ]
        self.recipe["experts"] = [str(folder) for folder in folders]


Breaking = Callable[[Case], object]
CASES: dict[str, tuple[Breaking, tuple[str, ...]]] = {}


def case(*words: str) -> Callable[[Breaking], Breaking]:
    """Registers a way to break a merge, by its function's name, and the words its message must hold."""

    def register(breaking: Breaking) -> Breaking:
        CASES[breaking.__name__.replace("_", " ")] = (breaking, words)
        return breaking

    return register


# --- experts that don't fit the base


@case("'e1' lacks 1 tensor", NORM, "where: ", "e1", "ignore: ['^model\\.norm\\.weight$']")
def a_missing_tensor(it: Case) -> None:
    it.models.rewrite(1, lambda tensors: tensors.pop(NORM))


@case("'e0' has, and the base has not", "model.extra.weight", "ignore: ")
def an_extra_tensor(it: Case) -> None:
    it.models.rewrite(0, lambda tensors: tensors.update({"model.extra.weight": torch.ones(2)}))


@case(QUERY, "'e0'", "got: [5, 6]", "expected: [6, 6]", "next: ")
def another_shape(it: Case) -> None:
    it.models.rewrite(0, lambda tensors: tensors.update({QUERY: torch.ones(5, WIDTH)}))


@case("model_type qwen2", "model_type llama", "next: ")
def another_family(it: Case) -> None:
    it.config(0, model_type="qwen2", architectures=["Qwen2ForCausalLM"])


@case(EMBEDDING, "got: [14, 6]", "vocabularies differ", "resize")
def more_tokens(it: Case) -> None:
    it.models.rewrite(0, lambda tensors: tensors.update({EMBEDDING: torch.ones(14, WIDTH)}))


@case("another vocabulary", "token 3 is 'other'", "expected: 't3'", "tokenizer.json")
def other_tokens(it: Case) -> None:
    other = {**TOKENIZER["model"]["vocab"], "other": 3}
    del other["t3"]
    (it.models.base / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    (it.models.experts[0] / "tokenizer.json").write_text(json.dumps({"model": {"vocab": other}}))


@case("NaN or infinity", QUERY, "'e1'", "got: 1 of 36", "nothing has been written")
def a_NaN_in_an_expert(it: Case) -> None:
    it.models.rewrite(1, lambda tensors: tensors[QUERY][2].fill_(1)[0].fill_(float("nan")))


@case("NaN or infinity", UP, "'e0'", "next: ")
def an_infinity_in_an_expert(it: Case) -> None:
    it.models.rewrite(0, lambda tensors: tensors[UP][0, 0].fill_(float("inf")))


@case("NaN or infinity", QUERY, "of the base", "next: ")
def a_NaN_in_the_base(it: Case) -> None:
    it.models.rewrite(None, lambda tensors: tensors[QUERY][0, 0].fill_(float("nan")))


@case("untied lm_head.weight", "ignore: ['^lm_head\\.weight$']")
def an_expert_that_untied_its_head(it: Case) -> None:
    it.config(None, tie_word_embeddings=True)
    it.models.rewrite(None, lambda tensors: tensors.update({HEAD: tensors[EMBEDDING].clone()}))


# --- adapters


@case("adapter 'a1'", "NaN or infinity", UP, "next: ")
def a_NaN_in_an_adapter(it: Case) -> None:
    it.adapters()
    file = it.root / "a1" / "adapter_model.safetensors"
    from safetensors.torch import load_file, save_file

    tensors = load_file(file)
    next(each for name, each in tensors.items() if "up_proj.lora_B" in name)[0, 0] = float("nan")
    save_file(tensors, file)


@case("doesn't fit", QUERY, "expected: [6, 6]", "ignore")
def an_adapter_of_other_shapes(it: Case) -> None:
    it.adapters(QUERY, base={QUERY: torch.zeros(8, 8)})


@case("the base has no", "model.layers.9", "optmerge inspect")
def an_adapter_of_more_layers(it: Case) -> None:
    name = "model.layers.9.mlp.up_proj.weight"
    it.adapters(name, base={name: torch.zeros(8, 8)})


@case("another base", "got: org/theirs", "expected: org/ours", "any_base: true")
def an_adapter_of_another_hub_id(it: Case) -> None:
    it.config(None, _name_or_path="org/ours")
    it.adapters(settings={"base_model_name_or_path": "org/theirs"})


@case("the base is an adapter", "next: give the model the adapter was trained on")
def an_adapter_as_base(it: Case) -> None:
    it.adapters()
    it.recipe["base"] = it.recipe["experts"][0]


@case("exact rank", "full checkpoints", "rank: 64")
def an_adapter_of_full_experts(it: Case) -> None:
    it.recipe["output"] = "adapter"


@case("can't hold model.layers.0.self_attn.q_proj.bias", "expected: merged matrices", "next: ")
def an_adapter_that_would_hold_half_a_module(it: Case) -> None:
    base = weights()
    base["model.layers.0.self_attn.q_proj.bias"] = torch.ones(WIDTH)
    save(it.models.base, base)
    for seed, folder in enumerate(it.models.experts):
        save(folder, tuned(base, seed))
    it.recipe |= {"output": {"format": "adapter", "rank": 2}, "select": {"kinds": ["matrix", "bias"]}}


@case("rank_pattern holds a pattern that can't be used", "look-around", "merge_and_unload()")
def an_adapter_with_look_around(it: Case) -> None:
    it.adapters(settings={"rank_pattern": {"(?!vision).*q_proj": 2}})


@case("r is wrong", "adapter_config.json", "expected: an integer > 0")
def an_adapter_of_rank_zero(it: Case) -> None:
    it.adapters(settings={"r": 0})


# --- files


@case("e0/model.safetensors", "where: ", "got: ")
def a_file_that_is_not_safetensors(it: Case) -> None:
    (it.models.experts[0] / "model.safetensors").write_bytes(b"not a tensor in sight, whatever its name")


@case("a file name may not be used", "../../etc/passwd", "model.safetensors.index.json", "expected: ")
def an_index_that_points_outside(it: Case) -> None:
    folder = it.models.experts[0]
    (folder / "model.safetensors").unlink()
    index = {"weight_map": dict.fromkeys(weights(), "../../etc/passwd")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@case("a file name may not be used", "'/etc/passwd'", "model.safetensors.index.json", "expected: ")
def an_index_with_an_absolute_path(it: Case) -> None:
    folder = it.models.experts[0]
    (folder / "model.safetensors").unlink()
    index = {"weight_map": dict.fromkeys(weights(), "/etc/passwd")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@case("a file name leads nowhere", "ud800", "model.safetensors.index.json")
def an_index_with_a_name_that_is_no_text(it: Case) -> None:
    folder = it.models.experts[0]
    (folder / "model.safetensors").unlink()
    index = {"weight_map": dict.fromkeys(weights(), "\ud800.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@case("a shard that the index names is missing", "got: model-00002-of-00002.safetensors", "next: download")
def an_index_with_a_missing_shard(it: Case) -> None:
    folder = it.models.experts[0]
    names = list(weights())
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": dict.fromkeys(names, "model-00001-of-00002.safetensors")}
    index["weight_map"][names[0]] = "model-00002-of-00002.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@case("a file leads outside its checkpoint folder", "model.safetensors", "next: copy the file")
def a_link_out_of_the_folder(it: Case) -> None:
    file = it.models.experts[0] / "model.safetensors"
    file.rename(it.root / "elsewhere")
    file.symlink_to("../elsewhere")


@case("a file leads outside its checkpoint folder", "secret.txt", "next: copy the file")
def a_side_file_that_links_out_of_the_folder(it: Case) -> None:
    (it.root / "secret").write_text("password")
    (it.models.base / "secret.txt").symlink_to("../secret")


@case("not a safetensors file", "a zip archive: probably a PyTorch checkpoint (pickle)", "next: ")
def a_pickle_in_disguise(it: Case) -> None:
    torch.save(weights(), it.models.experts[0] / "model.safetensors")


@case("not a safetensors file", "Git LFS pointer", "git lfs pull")
def a_pointer_of_git_lfs(it: Case) -> None:
    (it.models.base / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 123456789\n"
    )


@case("the file's size is wrong", "e0/model.safetensors", "truncated", "download it again")
def a_download_cut_short(it: Case) -> None:
    file = it.models.experts[0] / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


@case("nested too deeply", "e0/config.json")
def a_config_nested_too_deeply(it: Case) -> None:
    (it.models.experts[0] / "config.json").write_text('{"a":' + "[" * 100_000)


@case("isn't UTF-8 text", "e0/config.json")
def a_config_that_is_no_text(it: Case) -> None:
    (it.models.experts[0] / "config.json").write_bytes(b'{"model_type": "\xff"}')


@case("nested too deeply", "base/tokenizer.json")
def a_tokenizer_nested_too_deeply(it: Case) -> None:
    (it.models.base / "tokenizer.json").write_text('{"model":' + "[" * 100_000)
    (it.models.experts[0] / "tokenizer.json").write_text(json.dumps(TOKENIZER))


@case("quantised", "got: gptq", "merge the unquantised")
def a_quantised_expert(it: Case) -> None:
    it.config(1, quantization_config={"quant_method": "gptq", "bits": 4})


@case("quantised", "base", "merge the unquantised")
def a_quantised_base(it: Case) -> None:
    it.config(None, quantization_config={"quant_method": "bitsandbytes"})


@case("no such checkpoint", "where: ", "exprt-0", "did you mean", "/expert-0")
def a_misspelt_expert(it: Case) -> None:
    for index, folder in enumerate(it.models.experts):
        folder.rename(folder.with_name(f"expert-{index}"))
    it.recipe["experts"] = [str(it.root / "exprt-0")]


# --- recipes


@case("unknown key 'metod'", "recipe.yaml, metod", "did you mean 'method'?")
def an_unknown_key(it: Case) -> None:
    it.recipe["metod"] = "ties"


@case("unknown key 'wieght'", "experts.0.wieght", "did you mean 'weight'?")
def an_unknown_key_of_an_expert(it: Case) -> None:
    it.recipe["experts"][0] = {"model": it.recipe["experts"][0], "wieght": 1}


@case("base is missing", "recipe.yaml", "next: start from")
def no_base(it: Case) -> None:
    del it.recipe["base"]


@case("unknown method 'tyes'", "where: method", "did you mean 'ties'?")
def an_unknown_method(it: Case) -> None:
    it.recipe["method"] = "tyes"


@case("unknown method 'avrage'", "where: rules.0.method", "did you mean 'average'?")
def an_unknown_method_of_a_rule(it: Case) -> None:
    it.recipe["rules"] = [{"match": {}, "method": "avrage"}]


@case("ties has no parameter 'kep'", "did you mean 'keep'?")
def an_unknown_parameter(it: Case) -> None:
    it.recipe["method"] = {"name": "ties", "kep": 0.3}


@case("'keep' of ties is out of its domain", "got: 3", "expected: ", "next: see")
def a_parameter_out_of_its_domain(it: Case) -> None:
    it.recipe["method"] = {"name": "ties", "keep": 3}


@case("average has no scale", "got: 0.5", "next: ")
def a_scale_for_the_average(it: Case) -> None:
    it.recipe["method"] = {"name": "average", "scale": 0.5}


@case("slerp merges exactly 2 experts", "got: 3 experts", "next: ")
def slerp_of_three(it: Case) -> None:
    it.recipe |= {"method": "slerp", "experts": [*it.recipe["experts"], str(it.models.base)]}


@case("weights of average sum to zero", "got: [1.0, -1.0]", "next: ")
def weights_that_sum_to_zero(it: Case) -> None:
    it.recipe["method"] = "average"
    it.recipe["experts"] = [
        {"model": path, "weight": weight} for path, weight in zip(it.recipe["experts"], (1, -1), strict=True)
    ]


@case("unknown component 'langauge'", "select.components", "did you mean 'language'?")
def an_unknown_component(it: Case) -> None:
    it.recipe["select"] = {"components": ["langauge"]}


@case("unknown kind 'matrx'", "rules.0.match.kinds", "did you mean 'matrix'?")
def an_unknown_kind(it: Case) -> None:
    it.recipe["rules"] = [{"match": {"kinds": ["matrx"]}, "method": "average"}]


@case("no expert is called 'e7'", "rules.0.copy_from", "next: choose one of base, e0, e1")
def an_unknown_expert_in_a_rule(it: Case) -> None:
    it.recipe["rules"] = [{"match": {"include": ["nothing is called this"]}, "copy_from": "e7"}]


@case("no model called 'e7'", "side_files.from", "next: choose one of base, e0, e1")
def an_unknown_donor(it: Case) -> None:
    it.recipe["side_files"] = "e7"


@case("a rule has either `method` or `copy_from`", "rules.0")
def a_rule_with_two_actions(it: Case) -> None:
    it.recipe["rules"] = [{"match": {}, "method": "ties", "copy_from": "base"}]


@case("not a regular expression", "select.include.0", "got: '('")
def a_pattern_that_is_no_pattern(it: Case) -> None:
    it.recipe["select"] = {"include": ["("]}


@case("not a regular expression", "select.include.0", "recursion")
def a_pattern_nested_too_deeply(it: Case) -> None:
    it.recipe["select"] = {"include": ["(" * 3000 + ")" * 3000]}


@case("not a regular expression", "ignore.0", "repetition number is too large")
def a_pattern_repeated_too_often(it: Case) -> None:
    it.recipe["ignore"] = ["a{99999999999999999999}"]


@case("not a size in bytes", "--memory", "expected: such as")
def more_memory_than_a_number_can_say(it: Case) -> None:
    it.options = ["--memory", "9" * 400 + "GB"]


@case("two models are called 'twin'", "where: experts", "next: give one of them another name")
def one_name_twice(it: Case) -> None:
    it.recipe["experts"] = [{"model": path, "name": "twin"} for path in it.recipe["experts"]]


@case("no tensor would be merged", "where: select", "language", "next: choose among these")
def an_empty_selection(it: Case) -> None:
    it.recipe["select"] = {"components": ["vision"]}


@case("no tensor would be merged", "no config.json", "components: [other]")
def a_base_without_roles(it: Case) -> None:
    for folder in (it.models.base, *it.models.experts):
        (folder / "config.json").unlink()


@case("isn't finite in float16", "dtype or a smaller scale", UP)
def a_result_beyond_float16(it: Case) -> None:
    it.models.rewrite(0, lambda tensors: tensors[UP].mul_(1e6))
    it.recipe["dtype"] = "float16"


@case("not a size in bytes", "output.shard_size", "got: huge", "expected: such as")
def a_size_that_is_none(it: Case) -> None:
    it.recipe["output"] = {"shard_size": "huge"}


@case("the recipe can't be read", "recipe.yaml", "No such file", "next: ")
def no_recipe(it: Case) -> None:
    it.text = ""


@case("a recipe is a mapping", "got: list", "next: start from")
def a_list_as_recipe(it: Case) -> None:
    it.text = "- base\n- experts\n"


@case("isn't valid YAML", "recipe.yaml", "next: ")
def nonsense(it: Case) -> None:
    it.text = "base: [unclosed\nexperts: }"


@case("isn't valid YAML", "python/object", "next: ")
def a_tag(it: Case) -> None:
    it.text = "base: !!python/object/apply:os.system ['true']\n"


@case("isn't valid YAML", "tags", "2002:binary", "next: ")
def a_harmless_tag(it: Case) -> None:
    it.text = "base: !!binary aGVsbG8=\n"


@case("isn't valid YAML", "aliases", "next: ")
def an_alias_bomb(it: Case) -> None:
    it.text = "a: &a [x, x]\nb: &b [*a, *a]\nbase: *b\n"


@case("isn't valid YAML", "aliases", "next: ")
def a_bomb_of_merged_keys(it: Case) -> None:
    lines = ["a0: &a0 {x: 1, y: 1}", *(f"a{n + 1}: &a{n + 1} {{<<: [*a{n}, *a{n}]}}" for n in range(40))]
    it.text = "\n".join(lines)


@case("isn't valid YAML", "a number of 20002 digits", "next: ")
def a_number_without_end(it: Case) -> None:
    it.text = "base: 0x" + "f" * 20_000


@case("unknown key 'key0'", "expected: ", "next: ")
def keys_without_end(it: Case) -> None:
    it.text = "".join(f"key{index}:\n" for index in range(20_000))


@case("the recipe is too large", "expected: ≤ 262144 bytes")
def a_recipe_without_end(it: Case) -> None:
    it.text = "base: [" + "{}," * 100_000 + "]"


@case("base can't be used", "got: ['12:30:00.5']")
def a_time_of_day_is_no_number_to_the_base_60(it: Case) -> None:
    it.text = "base: [12:30:00.5]\nexperts: [a]\nmethod: ties\n"


@case("isn't valid YAML", "'base' occurs twice", "next: ")
def a_key_twice(it: Case) -> None:
    it.text = "base: one\nbase: two\n"


@case("isn't valid YAML", "next: ")
def bytes_that_are_no_text(it: Case) -> None:
    file = it.root / "recipe.yaml"
    file.write_bytes(b"base: \xff\xfe")
    it.text = ""


@case("isn't valid YAML", "next: ")
def a_thousand_brackets(it: Case) -> None:
    it.text = "base: " + "[" * 5000


@case("isn't valid YAML", "(line 2, column 1)", "next: indent with spaces, not tabs")
def a_tab(it: Case) -> None:
    it.text = "experts:\n\t- one\n"


@case("experts can't be used", "got: 'one'", "expected: a list")
def experts_that_are_no_list(it: Case) -> None:
    it.recipe["experts"] = "one"


@case("experts can't be used", "got: []", "expected: at least 1")
def no_experts(it: Case) -> None:
    it.recipe["experts"] = []


@case("experts.0.weight can't be used", "got: 'high'", "expected: a number")
def a_weight_in_words(it: Case) -> None:
    it.recipe["experts"] = [{"model": it.recipe["experts"][0], "weight": "high"}]


@case("select can't be used", "got: 'language'", "expected: a mapping, {key: value}")
def a_selection_that_is_no_mapping(it: Case) -> None:
    it.recipe["select"] = "language"


@case("method.name is missing", "next: as in: method: {name: ties, scale: 0.3}")
def a_method_without_a_name(it: Case) -> None:
    it.recipe["method"] = {"ties": 0.3}


@case("dtype can't be used", "got: 'fp16'", "expected: 'auto', 'float32', 'bfloat16' or 'float16'")
def a_type_of_another_name(it: Case) -> None:
    it.recipe["dtype"] = "fp16"


@case("not a safetensors file", "got: what seems to be a JSON text", "next: give its folder")
def a_config_as_checkpoint(it: Case) -> None:
    it.recipe["base"] = str(it.models.base / "config.json")


@case("the folder holds no checkpoint", "next: give the folder that holds the weights themselves")
def a_folder_of_checkpoints(it: Case) -> None:
    it.recipe["base"] = str(it.root)


# --- options


@case("isn't valid YAML", "--set select", "(line 1, column 3)")
def a_setting_that_is_no_YAML(it: Case) -> None:
    it.options = ["--set", "select=[x"]


@case("--resume and --overwrite exclude each other", "next: ")
def resuming_and_overwriting(it: Case) -> None:
    it.options = ["--resume", "--overwrite"]


@case(
    "the memory budget can't be kept",
    "got: 0.0 MiB",
    "expected: at least",
    "the process itself",
    "next: ",
)
def too_little_memory(it: Case) -> None:
    it.recipe["method"] = "tsv"
    it.options = ["--memory", "1KB"]


@case("not a size in bytes", "--memory", "got: lots")
def memory_that_is_no_size(it: Case) -> None:
    it.options = ["--memory", "lots"]


@case("unknown device", "got: tpu", "expected: cpu or cuda")
def an_unknown_device(it: Case) -> None:
    it.options = ["--device", "tpu"]


@case("unknown device", "got: cuda:first")
def a_device_by_name(it: Case) -> None:
    it.options = ["--device", "cuda:first"]


@case("no such device", "got: cpu:7", "expected: cpu")
def a_device_beyond_the_last(it: Case) -> None:
    it.options = ["--device", "cpu:7"]


@case("No such option", "--nonsense")
def an_unknown_option(it: Case) -> None:
    it.options = ["--nonsense"]


@case("--set takes key=value", "got: scale", "next: --set scale=0.5")
def a_setting_without_a_value(it: Case) -> None:
    it.options = ["--set", "scale"]


@case("unknown key 'kids'", "select.kids", "did you mean 'kinds'?")
def a_setting_of_an_unknown_key(it: Case) -> None:
    it.options = ["--set", "select.kids=[norm]"]


NAMES_ITS_BASE = ("an adapter of another hub id",)
"""Cases in which an expert itself says which base it is of, so that the next step can say so."""


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_and_nothing_is_written(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = world(tmp_path)
    breaking, words = CASES[name]
    it = Case(models, models.recipe())
    breaking(it)

    code = it.run()
    message = capsys.readouterr().err

    assert code == 2, message
    for word in words:
        assert word in message
    assert "Traceback" not in message
    assert message.count("error: ") <= 1
    if "error: " in message and name not in NAMES_ITS_BASE:  # typer's refusals of options have another form
        assert not broken_laws(message, weights()), message
    assert not models.out.exists()


# --- the output folder


def test_no_output_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = world(tmp_path)
    assert run(["merge", "--base", str(models.base), "--expert", str(models.experts[0])]) == 2
    assert "add --out DIR" in capsys.readouterr().err


def test_nothing_to_merge_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["merge", "--out", str(tmp_path / "out")]) == 2
    assert "nothing to merge" in capsys.readouterr().err


def test_it_is_said_which_of_base_and_experts_is_lacking(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["merge", "--out", str(tmp_path / "out"), "--base", "b"]) == 2
    assert "got: no expert\n" in capsys.readouterr().err
    assert run(["merge", "--out", str(tmp_path / "out"), "--expert", "e"]) == 2
    assert "got: no base\n" in capsys.readouterr().err


def test_a_recipe_that_is_not_there_is_met_with_its_neighbour(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text("")
    assert run(["merge", str(tmp_path / "recipe.yml"), "--out", str(tmp_path / "out")]) == 2
    assert f"did you mean {tmp_path / 'recipe.yaml'}?" in capsys.readouterr().err
    assert run(["merge", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "a model goes after --base or --expert" in capsys.readouterr().err


def taken(path: Path) -> None:
    path.mkdir()
    (path / "thesis.tex").write_text("years of work")


@pytest.mark.parametrize("options", [[], ["--overwrite"], ["--resume"]], ids=["plain", "overwrite", "resume"])
def test_a_folder_of_something_else_is_refused_and_left_alone(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = world(tmp_path)
    taken(models.out)
    it = Case(models, models.recipe(), options=options)

    assert it.run() == 2
    assert "isn't empty" in capsys.readouterr().err
    assert contents(models.out) == {"thesis.tex": b"years of work"}


def test_a_file_in_the_place_of_the_folder_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = world(tmp_path)
    models.out.write_text("a file")

    assert Case(models, models.recipe()).run() == 2
    assert "the output is a file" in capsys.readouterr().err
    assert models.out.read_text() == "a file"


def test_a_name_too_long_for_a_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = world(tmp_path)
    file = tmp_path / "r.yaml"
    file.write_text(yaml.safe_dump(models.recipe()))

    for options in ([], ["--resume"], ["--overwrite"]):
        assert run(["merge", str(file), "--out", str(tmp_path / ("x" * 300)), *options]) == 2
        assert "File name too long" in capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["--overwrite"], ["--resume"]], ids=["plain", "overwrite", "resume"])
def test_a_link_in_a_circle_is_refused(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = world(tmp_path)
    models.out.symlink_to(models.out)

    assert Case(models, models.recipe(), options=options).run() == 2
    assert "can't be written" in capsys.readouterr().err


def test_an_input_is_not_overwritten_by_way_of_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = world(tmp_path)
    assert Case(models, models.recipe()).run() == 0
    before = contents(models.out)
    recipe = models.recipe(
        base=str(models.out / "model.safetensors"),
        experts=[str(folder / "model.safetensors") for folder in models.experts],
        select={"components": ["other"]},
    )

    assert Case(models, recipe, options=["--overwrite"]).run() == 2
    assert "an input lies in the output folder" in capsys.readouterr().err
    assert contents(models.out) == before


def test_a_folder_that_can_not_be_made_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = world(tmp_path)
    (tmp_path / "file").write_text("")
    file = tmp_path / "r.yaml"
    file.write_text(yaml.safe_dump(models.recipe()))

    assert run(["merge", str(file), "--out", str(tmp_path / "file" / "out")]) == 2
    assert "can't be written" in capsys.readouterr().err


def test_wrong_input_leaves_an_empty_folder_of_the_users_empty(tmp_path: Path) -> None:
    models = world(tmp_path)
    models.out.mkdir()
    it = Case(models, models.recipe())
    a_NaN_in_an_expert(it)

    assert it.run() == 2
    assert models.out.is_dir() and not list(models.out.iterdir())


def test_wrong_input_leaves_no_parent_folders_behind(tmp_path: Path) -> None:
    models = world(tmp_path)
    it = Case(models, models.recipe())
    a_NaN_in_an_expert(it)
    file = tmp_path / "r.yaml"
    file.write_text(yaml.safe_dump(it.recipe))

    assert run(["merge", str(file), "--out", str(tmp_path / "new" / "deep" / "out")]) == 2
    assert not (tmp_path / "new").exists()


def test_a_device_that_is_not_there_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    models = world(tmp_path)

    assert Case(models, models.recipe(), options=["--device", "cuda"]).run() == 2
    assert "next: use --device cpu" in capsys.readouterr().err
    assert not models.out.exists()


def test_a_recipe_that_is_wrong_in_itself_is_refused_before_any_model_is_looked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = world(tmp_path)
    it = Case(models, models.recipe(base="org/to-be-downloaded", method="tyes"))

    assert it.run() == 2
    assert "unknown method" in capsys.readouterr().err


# --- files that are well-formed, and still not what they should be


@pytest.mark.parametrize(
    "tokenizer",
    [
        "[]",
        '{"model": "none"}',
        '{"model": {"vocab": 3}}',
        '{"model": {"vocab": [[]]}}',
        '{"model": {"vocab": {"a": [1]}}}',
        '{"added_tokens": [{}]}',
        '{"added_tokens": 1}',
        "not JSON",
    ],
)
def test_a_strange_tokenizer_is_no_traceback(tokenizer: str, tmp_path: Path) -> None:
    models = world(tmp_path)
    (models.base / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    (models.experts[0] / "tokenizer.json").write_text(tokenizer)

    assert Case(models, models.recipe()).run() in (0, 2)


@pytest.mark.parametrize(
    "config",
    [
        {"architectures": "LlamaForCausalLM"},
        {"architectures": [3]},
        {"architectures": [[]]},
        {"text_config": {"model_type": []}},
        {"quantization_config": {"quant_method": [[]]}},
        {"model_type": ["llama"]},
        {"text_config": "none"},
        {"text_config": [1], "hidden_size": "wide"},
        {"quantization_config": ["gptq"]},
        {"tie_word_embeddings": "yes"},
        {"dtype": 3, "torch_dtype": None},
        {"_name_or_path": 7},
        {"auto_map": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("whose", [None, 0], ids=["base", "expert"])
def test_a_strange_config_is_no_traceback(config: dict[str, Any], whose: int | None, tmp_path: Path) -> None:
    models = world(tmp_path)
    it = Case(models, models.recipe())
    it.config(whose, **config)

    assert it.run() in (0, 2)
