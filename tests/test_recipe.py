"""Recipes: short forms, mistakes explained, paths beside the file, and overrides."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optmerge.errors import RecipeError
from optmerge.recipe import Recipe, load_recipe, override, parse_recipe, read_recipe_data
from worlds.samples import examples

PLAIN: dict[str, Any] = {"base": "b", "experts": ["x/ocr", "x/chart"], "method": "ties"}
LONG: dict[str, Any] = {
    "base": "b",
    "experts": [{"model": "x/ocr", "name": "ocr", "weight": 2}, {"model": "x/chart"}],
    "method": {"name": "ties", "keep": 0.3, "scale": 0.5},
    "select": {"components": ["language", "vision"], "kinds": ["matrix"], "include": ["a"], "exclude": ["b"]},
    "rules": [
        {"match": {"kinds": ["norm"]}, "method": {"name": "average"}},
        {"match": {}, "copy_from": "ocr"},
    ],
    "ignore": ["c"],
    "dtype": "bfloat16",
    "side_files": {"from": "ocr"},
    "output": {"format": "adapter", "rank": 4},
    "allow_pickle": True,
}


def test_short_forms_stand_for_long_ones() -> None:
    short = {**PLAIN, "output": "adapter", "side_files": "ocr", "ignore": "c", "select": {"include": "a"}}
    recipe = parse_recipe(short)

    assert recipe.method.name == "ties"
    assert [expert.model for expert in recipe.experts] == ["x/ocr", "x/chart"]
    assert recipe.output.format == "adapter"
    assert recipe.side_files.donor == "ocr"
    assert (recipe.ignore, recipe.select.include) == (["c"], ["a"])


@pytest.mark.parametrize("data", [PLAIN, LONG], ids=["short", "long"])
def test_a_recipe_survives_being_written_and_read(data: dict[str, Any]) -> None:
    recipe = parse_recipe(data)

    assert parse_recipe(recipe.plain()) == recipe
    assert parse_recipe(yaml.safe_load(yaml.safe_dump(recipe.plain()))) == recipe


def test_the_defaults_are_the_matrices_of_the_language_model() -> None:
    recipe = parse_recipe(PLAIN)

    assert (recipe.select.components, recipe.select.kinds) == (["language"], ["matrix"])
    assert (recipe.dtype, recipe.side_files.donor, recipe.output.format) == ("auto", "base", "dense")


def test_unknown_parameters_of_a_method_are_left_to_the_method() -> None:
    assert parse_recipe(LONG).method.parameters == {"keep": 0.3}


@pytest.mark.parametrize(
    ("change", "where", "near"),
    [
        ({"expert": ["x"]}, "expert", "experts"),
        ({"select": {"component": ["language"]}}, "select.component", "components"),
        ({"experts": [{"model": "x", "nam": "y"}]}, "experts.0.nam", "name"),
        ({"rules": [{"match": {"kind": ["norm"]}, "copy_from": "base"}]}, "rules.0.match.kind", "kinds"),
        ({"rules": [{"mach": {}, "copy_from": "base"}]}, "rules.0.mach", "match"),
        ({"output": {"formt": "dense"}}, "output.formt", "format"),
        ({"side_files": {"form": "base"}}, "side_files.form", "from"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(
    change: dict[str, Any], where: str, near: str
) -> None:
    with pytest.raises(RecipeError, match="unknown key") as caught:
        parse_recipe({**PLAIN, **change}, "r.yaml")

    assert caught.value.where == f"r.yaml, {where}"
    assert caught.value.hint == f"did you mean {near!r}?"
    assert near in str(caught.value.expected)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"experts": []}, "experts"),
        ({"experts": "one"}, "experts"),
        ({"dtype": "int8"}, "dtype"),
        ({"method": {"name": "ties", "scale": float("nan")}}, "method.scale"),
        ({"experts": [{"model": "x", "weight": float("inf")}]}, "experts.0.weight"),
        ({"select": {"exclude": ["("]}}, "select.exclude.0"),
        ({"output": {"format": "adapter", "rank": 0}}, "output.rank"),
        ({"rules": [{"match": {}}]}, "rules.0"),
        ({"base": 3}, "base"),
    ],
    ids=str,
)
def test_a_value_of_the_wrong_kind_is_refused_by_its_key(change: dict[str, Any], key: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe({**PLAIN, **change}, "r.yaml")

    assert caught.value.where == f"r.yaml, {key}"


@pytest.mark.parametrize("missing", ["base", "experts"])
def test_a_missing_key_is_named(missing: str) -> None:
    with pytest.raises(RecipeError, match=f"{missing} is missing"):
        parse_recipe({key: value for key, value in PLAIN.items() if key != missing})


# --- names of experts


@pytest.mark.parametrize(
    ("experts", "names"),
    [
        (["x/ocr", "y/chart/"], ["ocr", "chart"]),
        (["org/ocr@v1.2", "ocr.safetensors"], ["ocr", "ocr-2"]),
        (["x/ocr", {"model": "y/ocr", "name": "ocr-2"}, "z/ocr"], ["ocr", "ocr-2", "ocr-3"]),
        (["x/base", "/"], ["base-2", "expert"]),
    ],
)
def test_experts_get_names_that_differ(experts: list[Any], names: list[str]) -> None:
    assert parse_recipe({**PLAIN, "experts": experts}).expert_names() == names


@pytest.mark.parametrize("name", ["base", "twin"])
def test_a_name_given_twice_is_refused(name: str) -> None:
    experts = [{"model": "x", "name": name}, {"model": "y", "name": "twin"}, "base"]
    with pytest.raises(RecipeError, match="two models are called"):
        parse_recipe({**PLAIN, "experts": experts}).expert_names()


# --- files


def written(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


def test_paths_are_looked_up_beside_the_recipe_first(tmp_path: Path) -> None:
    for name in ("mine", "ocr", "templates"):
        (tmp_path / name).mkdir()
    experts = "[ocr, {model: ./ocr, name: b}, org/hub]"
    text = f"{{base: mine, experts: {experts}, method: ties, side_files: ./templates}}"
    recipe = load_recipe(written(tmp_path / "r.yaml", text))

    assert recipe.base == str(tmp_path / "mine")
    ocr = str(tmp_path / "ocr")
    assert [expert.model for expert in recipe.experts] == [ocr, ocr, "org/hub"]
    assert recipe.side_files.donor == str(tmp_path / "templates")


def test_the_name_of_a_donor_is_no_path(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    text = "{base: base, experts: [x], method: ties, side_files: base}"

    assert load_recipe(written(tmp_path / "r.yaml", text)).side_files.donor == "base"


@pytest.mark.parametrize("ref", ["x" * 5000, "a/" * 3000, "\0", "~", "org/name@main"])
def test_a_reference_that_is_no_path_is_kept_as_written(tmp_path: Path, ref: str) -> None:
    path = written(tmp_path / "r.yaml", yaml.safe_dump({**PLAIN, "base": ref}))

    assert read_recipe_data(path)["base"] == ref


@pytest.mark.parametrize(
    "text",
    [
        "base: &a x\nexperts: [*a]",
        "base: !!python/name:os.system",
        "base: x\nbase: y",
        "select: {kinds: [norm], kinds: [matrix]}",
        "1: x",
        "{[a]: x}",
        "base: [",
        "base: 2024-99-99",
        "!!map x",
        "[" * 3000,
        "\x07",
    ],
    ids=lambda text: text[:25],
)
def test_anything_but_plain_yaml_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError, match=r"valid YAML|mapping"):
        load_recipe(written(tmp_path / "r.yaml", text))


def test_a_recipe_too_large_to_be_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="too large"):
        load_recipe(written(tmp_path / "r.yaml", "#" * (1 << 20) + "\nbase: x"))


# --- overrides


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        ("scale=0.5", ("method", "scale"), 0.5),
        ("keep=0.1", ("method", "keep"), 0.1),
        ("method.keep=0.1", ("method", "keep"), 0.1),
        ("method=average", ("method",), "average"),
        ("select.kinds=[matrix, norm]", ("select", "kinds"), ["matrix", "norm"]),
        ("experts.1.weight=2", ("experts", 1, "weight"), 2),
        ("experts.0=elsewhere", ("experts", 0), "elsewhere"),
        ("output.rank=8", ("output", "rank"), 8),
        ("dtype=bfloat16", ("dtype",), "bfloat16"),
        ("side_files.from=ocr", ("side_files", "from"), "ocr"),
        ("base=a=b", ("base",), "a=b"),
    ],
)
@pytest.mark.parametrize("data", [PLAIN, LONG], ids=["short", "long"])
def test_an_assignment_lands_where_it_says(
    data: dict[str, Any], assignment: str, path: tuple[Any, ...], value: Any
) -> None:
    found: Any = override(data, [assignment])
    for part in path:
        found = found[part]

    assert found == value


@pytest.mark.parametrize("assignment", ["scale=1e-3", "scale=1E-3", "scale=0.001", "scale=.001"])
def test_numbers_may_be_written_as_people_do(assignment: str) -> None:
    assert parse_recipe(override(PLAIN, [assignment])).method.scale == 0.001


def test_the_method_of_a_rule_may_be_changed() -> None:
    data = {**PLAIN, "rules": [{"match": {}, "method": "average"}]}
    recipe = parse_recipe(override(data, ["rules.0.method.scale=2"]))

    assert recipe.rules[0].method is not None
    assert (recipe.rules[0].method.name, recipe.rules[0].method.scale) == ("average", 2)


def test_later_assignments_win() -> None:
    assert override(PLAIN, ["scale=1", "scale=2"])["method"] == {"name": "ties", "scale": 2}


@pytest.mark.parametrize(
    "assignment",
    ["scale", "=1", "base.x=1", "experts.9=x", "experts.²=x", "experts.a=x", "dtype=[", "base=*a"],
)
def test_an_assignment_that_leads_nowhere_is_refused(assignment: str) -> None:
    with pytest.raises(RecipeError, match="--set"):
        override(PLAIN, [assignment])


KEYS = st.lists(st.sampled_from(["method", "select", "experts", "0", "7", "kinds", "x", "", "²"]), max_size=4)
VALUES = st.text(max_size=12) | st.sampled_from(["[1, 2]", "{a: 1}", "null", "*a", "!!int x", "2024-99-99"])


@pytest.mark.sampled
@settings(max_examples=examples(few=30, many=200), deadline=None)
@given(keys=KEYS, value=VALUES)
def test_an_override_gives_a_recipe_or_a_recipe_error_and_changes_nothing_given(
    keys: list[str], value: str
) -> None:
    data = parse_recipe(LONG).plain()
    before = yaml.safe_dump(data)
    with suppress(RecipeError):
        parse_recipe(override(data, [".".join(keys) + "=" + value]))
    assert yaml.safe_dump(data) == before


@pytest.mark.sampled
@settings(
    max_examples=examples(few=25, many=200), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
@given(
    st.dictionaries(
        st.text(max_size=8), st.recursive(st.none() | st.integers() | st.text(max_size=5), st.lists)
    )
)
def test_any_mapping_is_a_recipe_or_a_recipe_error(data: dict[str, Any]) -> None:
    with suppress(RecipeError):
        assert isinstance(parse_recipe({**PLAIN, **data}), Recipe)
