"""A plan accounts for every tensor, reads headers only, and is plain data."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

import optmerge
from optmerge.checkpoints.reader import FileSource
from optmerge.engine.plan import MethodUse, Plan, TensorPlan
from optmerge.methods import get
from optmerge.methods._solvers import approximation
from worlds.merges import CONFIG, EMBEDDING, HEAD, NORM, QUERY, UP, World, save_adapter, weights, world


@pytest.fixture
def models(tmp_path: Path) -> World:
    return world(tmp_path)


def fate(plan: Plan, name: str) -> TensorPlan:
    return next(tensor for tensor in plan.tensors if tensor.name == name)


def merged(plan: Plan) -> set[str]:
    return {tensor.name for tensor in plan.tensors if tensor.action == "merge"}


@pytest.mark.parametrize(
    "select",
    [{}, {"kinds": ["norm"]}, {"kinds": None}, {"components": None, "kinds": None, "exclude": "mlp"}],
    ids=str,
)
def test_every_tensor_of_the_base_has_one_fate(models: World, select: dict[str, Any]) -> None:
    plan = optmerge.plan(models.recipe(select=select))

    assert Counter(tensor.name for tensor in plan.tensors) == Counter(models.tensors().keys())
    assert sum(plan.counts().values()) == len(plan.tensors)
    assert sorted(spec.name for shard in plan.shards for spec in shard.tensors) == sorted(models.tensors())


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Name and bytes of every read of a tensor."""
    read = []
    fill = FileSource.fill

    def counting(self: FileSource, info: Any, start: int, out: torch.Tensor) -> None:
        read.append((info.name, out.numel()))
        fill(self, info, start, out)

    monkeypatch.setattr(FileSource, "fill", counting)
    return read


def test_a_plan_reads_a_few_kilobytes_of_each_tensor(tmp_path: Path, reads: list[tuple[str, int]]) -> None:
    base = {**weights(), UP: torch.randn(300, 1000)}
    plan = optmerge.plan(world(tmp_path, experts=3, base=base).recipe())
    sizes = Counter[str]()
    for name, size in reads:
        sizes[name] += size

    assert plan.counts()["merge"] == 6
    assert max(sizes.values()) == sizes[UP] == 4 * 8192


def test_a_plan_reads_a_few_kilobytes_of_what_may_be_tied(
    tmp_path: Path, reads: list[tuple[str, int]]
) -> None:
    base = weights()
    base[EMBEDDING] = torch.randn(30_000, 6)
    base[HEAD] = base[EMBEDDING].clone()
    models = world(tmp_path, base=base, config={**CONFIG, "tie_word_embeddings": True})
    models.rewrite(0, lambda tensors: tensors.pop(HEAD))
    models.rewrite(1, lambda tensors: tensors.pop(HEAD))
    plan = optmerge.plan(models.recipe())

    assert fate(plan, HEAD).action == "alias"
    assert sum(size for name, size in reads if name in (EMBEDDING, HEAD)) <= (64 + 3 * 8) << 10


def test_a_plan_survives_json(models: World) -> None:
    plan = optmerge.plan(models.recipe(rules=[{"match": {"kinds": ["norm"]}, "method": "average"}]))
    plain = plan.plain()

    assert json.loads(json.dumps(plain)) == json.loads(json.dumps(plain, default=pytest.fail))
    again = optmerge.plan(json.loads(json.dumps(plain))["recipe"])
    assert again == plan


def test_the_default_selects_the_matrices_of_the_language_model(models: World) -> None:
    plan = optmerge.plan(models.recipe())

    assert merged(plan) == {name for name in models.tensors() if "_proj" in name}
    assert fate(plan, NORM).reason.words == "kind norm is not selected"
    assert fate(plan, EMBEDDING).reason.words == "kind embedding is not selected"


def test_include_and_exclude_narrow_the_roles_down(models: World) -> None:
    plan = optmerge.plan(models.recipe(select={"include": [r"layers\.0", "norm"], "exclude": ["down"]}))

    assert merged(plan) == {QUERY, "model.layers.0.mlp.up_proj.weight"}
    assert fate(plan, "model.layers.0.mlp.down_proj.weight").reason.words == "left out by include/exclude"


def test_the_first_rule_that_matches_wins(models: World) -> None:
    rules: list[dict[str, Any]] = [
        {"match": {"include": [r"layers\.0\.self_attn"]}, "method": {"name": "ties", "keep": 0.5}},
        {"match": {"include": [r"layers\.0"]}, "copy_from": "e1"},
        {"match": {"include": ["self_attn"]}, "method": "average"},
    ]
    plan = optmerge.plan(models.recipe(rules=rules))

    assert plan.use(fate(plan, QUERY)).name == "ties"
    assert fate(plan, "model.layers.0.mlp.up_proj.weight").source == "e1"
    assert plan.use(fate(plan, "model.layers.1.self_attn.q_proj.weight")).name == "average"
    assert plan.use(fate(plan, UP)).name == "task_arithmetic"


def test_a_rule_reaches_what_select_leaves_out(models: World) -> None:
    plan = optmerge.plan(models.recipe(rules=[{"match": {"kinds": ["norm"]}, "method": "average"}]))

    assert plan.use(fate(plan, NORM)).name == "average"


def test_a_rule_without_tensors_is_a_warning(models: World) -> None:
    plan = optmerge.plan(models.recipe(rules=[{"match": {"include": ["nothing"]}, "copy_from": "base"}]))

    assert any("rule 0 matches no tensor" in warning for warning in plan.warnings)


def test_what_is_approximated_is_said_with_the_tolerance(
    models: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approximation, "EXACT_SIDE", 4)
    plan, exact = (
        optmerge.plan(models.recipe(method={"name": "swudi", "tolerance": tolerance}))
        for tolerance in (0.02, 0.0)
    )
    default = optmerge.plan(models.recipe(method="swudi"))

    assert [warning for warning in plan.warnings if "approximated" in warning] == [
        "swudi: 2 wide tensors are approximated (such as model.layers.0.mlp.down_proj.weight) where the "
        "estimated error is at most 0.02 of the merged change; elsewhere the eigenproblem is solved, "
        "which takes long; tolerance: 0 solves it everywhere"
    ]
    assert not [warning for warning in exact.warnings if "approximated" in warning]
    assert plan.cost.peak_bytes == exact.cost.peak_bytes
    assert plan.methods[0] != exact.methods[0]
    assert default.warnings == plan.warnings


def test_a_rule_that_matches_only_what_nobody_changes_says_so(models: World, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", (UP,))
    rules = [{"match": {"include": ["q_proj"]}, "method": "average"}]
    plan = optmerge.plan(models.recipe(experts=[str(adapter)], rules=rules))

    told = [warning for warning in plan.warnings if "rule 0" in warning]
    assert told == ["rule 0 matches 2 tensors, but merges none of them: no expert changes it"]


def test_a_rule_at_scale_0_says_so(models: World) -> None:
    rules = [{"match": {"kinds": ["norm"]}, "method": {"name": "ties", "scale": 0}}]
    plan = optmerge.plan(models.recipe(rules=rules))

    told = [warning for warning in plan.warnings if "rule 0" in warning]
    assert told == ["rule 0 matches 3 tensors, but merges none of them: scale 0"]
    assert fate(plan, NORM).action == "copy"


def test_a_rule_that_an_earlier_one_forestalls_matches_nothing(models: World) -> None:
    rules = [
        {"match": {"kinds": ["norm"]}, "method": {"name": "ties", "scale": 0}},
        {"match": {"kinds": ["norm"]}, "method": "average"},
    ]
    plan = optmerge.plan(models.recipe(rules=rules))

    told = [warning for warning in plan.warnings if "rule 1" in warning]
    assert told == ["rule 1 matches no tensor (or an earlier rule matches first)"]


def test_a_checkpoint_without_config_has_no_roles(tmp_path: Path) -> None:
    models = world(tmp_path, config=None)
    plan = optmerge.plan(models.recipe(select={"components": ["other"], "include": ["mlp"]}))

    assert merged(plan) == {name for name in models.tensors() if ".mlp." in name}


def test_what_an_adapter_changes_beyond_the_selection_is_a_warning(tmp_path: Path) -> None:
    models = world(tmp_path, experts=0)
    adapter = save_adapter(tmp_path / "a", (QUERY, UP))
    plan = optmerge.plan(models.recipe(experts=[str(adapter)], select={"include": ["mlp"]}))

    assert merged(plan) == {UP}
    (told,) = plan.warnings
    assert told.startswith("a changed the language model (matrix) by ")
    assert told.endswith("left out; keep it with --set select.include=[]")


def test_tensors_that_no_expert_changes_are_copied(tmp_path: Path) -> None:
    models = world(tmp_path, experts=0)
    adapter = save_adapter(tmp_path / "a", (QUERY,))
    plan = optmerge.plan(models.recipe(experts=[str(adapter)]))

    assert fate(plan, UP).reason.words == "no expert changes it"


def test_the_papers_settings_depend_on_the_experts_kind_and_the_solved_form_does_not(tmp_path: Path) -> None:
    models = world(tmp_path)
    adapters = [str(save_adapter(tmp_path / f"a{seed}", seed=seed)) for seed in (0, 1)]

    def planned(experts: list[str], **parameters: Any) -> MethodUse:
        use = optmerge.plan(
            models.recipe(method={"name": "optmerge", **parameters}, experts=experts)
        ).methods[0]
        assert use
        return use

    experts = [str(each) for each in models.experts]
    full, low = planned(experts, settings="paper"), planned(adapters, settings="paper")
    mixed = planned([adapters[0], experts[0]], settings="paper")
    assert (full.parameters["variant"], full.scale) == ("full", 0.1)
    assert (low.parameters["variant"], low.scale) == ("lora", 1.0)
    assert mixed.parameters["variant"] == "full"
    for kinds in (experts, adapters, [adapters[0], experts[0]]):
        use = planned(kinds)
        assert (use.parameters["settings"], use.parameters["variant"], use.scale) == ("solved", "full", 1.0)


def test_the_cost_counts_the_bytes_of_the_files(models: World) -> None:
    recipe = models.recipe(select={"components": None, "kinds": None})
    cost = optmerge.plan(recipe).cost
    size = sum(tensor.nbytes for tensor in models.tensors().values())

    assert (cost.bytes_read, cost.bytes_written) == (3 * size, size)
    assert cost.peak_tensor in models.tensors()


def test_every_pass_of_a_survey_is_in_the_cost(models: World) -> None:
    once = optmerge.plan(models.recipe())
    surveyed = optmerge.plan(models.recipe(method={"name": "ties", "trim": "model", "scale": 1}))
    chosen = optmerge.plan(models.recipe(method={"name": "ties", "trim": "model"}))
    use = surveyed.methods[0]
    assert use is not None
    merged_bytes = 3 * sum(models.tensors()[name].nbytes for name in merged(once))
    passes = get("ties").streaming(use.parameters).passes

    assert passes > 0
    assert surveyed.cost.bytes_read - once.cost.bytes_read == passes * merged_bytes
    assert chosen.cost.bytes_read - surveyed.cost.bytes_read == merged_bytes


def test_the_fingerprint_tells_recipes_and_inputs_apart(models: World) -> None:
    fingerprints = {optmerge.plan(models.recipe()).fingerprint for _ in range(2)}
    fingerprints.add(
        optmerge.plan(models.recipe(method={"name": "task_arithmetic", "scale": 0.4})).fingerprint
    )
    models.rewrite(1, lambda tensors: tensors[QUERY].add_(1))  # the same header, another time of change
    fingerprints.add(optmerge.plan(models.recipe()).fingerprint)

    assert len(fingerprints) == 3


def test_an_unknown_architecture_is_a_warning(tmp_path: Path) -> None:
    models = world(tmp_path, config={**CONFIG, "model_type": "nobodys", "architectures": ["Nobody"]})
    plan = optmerge.plan(models.recipe())

    assert plan.generic and merged(plan)
    assert any("'nobodys' is not declared" in warning for warning in plan.warnings)


def test_a_plan_says_how_its_roles_are_known(tmp_path: Path) -> None:
    for kind, way in (("llama", "declared"), ("arcee", "class"), ("nobodys", "names")):
        config = {
            **CONFIG,
            "model_type": kind,
            "architectures": None,
            "num_key_value_heads": 2,
            "head_dim": 3,
        }
        plan = optmerge.plan(world(tmp_path / kind, config=config).recipe())

        assert plan.plain()["architecture"] == {
            "name": plan.architecture,
            "generic": way == "names",
            "way": way,
        }
        assert merged(plan)


def test_matrices_of_no_known_component_are_a_warning_where_they_are_most(tmp_path: Path) -> None:
    models = world(tmp_path, config={**CONFIG, "model_type": "nobodys", "architectures": ["Nobody"]})
    for number in (None, 0, 1):
        models.rewrite(
            number,
            lambda tensors: tensors.update({f"a.b.c.{i}.weight": tensors[QUERY].clone() for i in range(9)}),
        )
    warnings = optmerge.plan(models.recipe()).warnings

    assert any("9 of 15 matrices outside of recognised towers are not merged" in each for each in warnings)
