"""The plan of a merge: what happens to every tensor, and what it costs, known from headers alone."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from optmerge.checkpoints.safetensors_format import Header
from optmerge.checkpoints.shards import DEFAULT_SHARD_BYTES, Shard, plan_shards
from optmerge.engine.planning.adapter_limits import check_adapter_output
from optmerge.engine.planning.cost import Cost, cost_of
from optmerge.engine.planning.inputs import AdapterExpert, Inputs
from optmerge.engine.planning.opening import open_inputs
from optmerge.engine.planning.recipe_checks import check_recipe
from optmerge.engine.planning.selection import choose, layout_of
from optmerge.engine.planning.sizes import parse_bytes
from optmerge.errors import RecipeError, did_you_mean
from optmerge.methods import Layout, get
from optmerge.recipe import BASE, MethodChoice, Recipe, parse_recipe

_DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


@dataclass(frozen=True)
class MethodUse:
    """A method with everything decided.

    Args:
        name: of the method.
        parameters: complete, no `auto` left.
        scale: factor on the merged delta.
        weights: one per expert.
    """

    name: str
    parameters: Mapping[str, Any]
    scale: float
    weights: tuple[float, ...]


@dataclass(frozen=True)
class TensorPlan:
    """What happens to one tensor of the base.

    Args:
        name: as the base stores it, and as the output will.
        component: part of the model.
        kind: what it does there.
        shape: its shape.
        dtype: safetensors dtype in the base.
        out_dtype: safetensors dtype in the output.
        action: `merge`, `copy`, or `alias`: not written, since it is tied to `source`.
        reason: why.
        group: index into the plan's methods; None where not merged.
        source: where it is copied from, or what it is an alias of.
        layout: how it holds matrices.
    """

    name: str
    component: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    out_dtype: str
    action: str
    reason: str
    group: int | None
    source: str
    layout: Layout


@dataclass(frozen=True)
class Plan:
    """A merge, decided: plain data.

    Args:
        recipe: what was asked for.
        architecture: name of the base's family.
        generic: the family is a guess by common habits.
        expert_names: in the order of the recipe.
        experts: what each expert is.
        base: what the base is.
        methods: the recipe's method first, then one per rule (None for a rule that copies).
        tensors: one per tensor of the base, in the order they are written.
        shards: files of a dense output.
        side_files: donor folder, or None.
        cost: bytes, memory and work.
        warnings: what the user should know.
        fingerprint: of everything that decides the output's bytes.
        ingredients: what was given → its own fingerprint, to say what has changed.
    """

    recipe: Recipe
    architecture: str
    generic: bool
    expert_names: tuple[str, ...]
    experts: tuple[dict[str, Any], ...]
    base: dict[str, Any]
    methods: tuple[MethodUse | None, ...]
    tensors: tuple[TensorPlan, ...]
    shards: tuple[Shard, ...]
    side_files: str | None
    cost: Cost
    warnings: tuple[str, ...]
    fingerprint: str
    ingredients: Mapping[str, str]

    def use(self, tensor: TensorPlan) -> MethodUse:
        """The method of a merged tensor."""
        use = self.methods[tensor.group] if tensor.group is not None else None
        assert use is not None, f"{tensor.name} is not merged"
        return use

    def counts(self) -> dict[str, int]:
        """How many tensors are merged, copied, and aliases; together all of the base's."""
        found = Counter(tensor.action for tensor in self.tensors)
        return {action: found[action] for action in ("merge", "copy", "alias")}

    def plain(self) -> dict[str, Any]:
        """The plan as JSON-ready data."""
        return {
            "recipe": self.recipe.plain(),
            "architecture": {"name": self.architecture, "generic": self.generic},
            "base": self.base,
            "experts": list(self.experts),
            "methods": [asdict(use) if use else None for use in self.methods],
            "counts": self.counts(),
            "cost": asdict(self.cost),
            "warnings": list(self.warnings),
            "side_files": self.side_files,
            "shards": [shard.file_name for shard in self.shards],
            "fingerprint": self.fingerprint,
            "tensors": [asdict(tensor) for tensor in self.tensors],
        }


def make_plan(recipe: Recipe | Mapping[str, Any], inputs: Inputs | None = None) -> Plan:
    """Decides a merge from headers.

    Args:
        recipe: a recipe, or plain data in its form.
        inputs: the opened base and experts, where the caller has them.

    Raises:
        InputError: anything that would stop the merge and that headers can show.
    """
    recipe = parse_recipe(recipe)
    check_recipe(recipe)
    names = recipe.expert_names()
    inputs = inputs or open_inputs(recipe)
    choices = (recipe.method, *(rule.method for rule in recipe.rules))
    uses = tuple(_decide(choice, recipe, inputs) if choice else None for choice in choices)
    tensors = _plan_tensors(recipe, inputs, uses)
    _check_something_merged(recipe, tensors, inputs)
    check_adapter_output(recipe, tensors, inputs)
    shards = _shards(recipe, tensors)
    donor = _donor(recipe, inputs, names)
    given = _given(recipe, inputs)
    experts = tuple(
        {"name": expert.name, "model": expert.spec.model, "weight": expert.spec.weight, **expert.identity()}
        for expert in inputs.experts
    )
    base = {
        "model": recipe.base,
        "identity": inputs.base.checkpoint.identity(),
        "bytes": inputs.base.checkpoint.nbytes,
    }
    return Plan(
        recipe=recipe,
        architecture=inputs.base.architecture.name,
        generic=inputs.base.architecture.generic,
        expert_names=tuple(names),
        experts=experts,
        base=base,
        methods=uses,
        tensors=tensors,
        shards=shards,
        side_files=donor,
        cost=cost_of(tensors, uses, inputs, recipe),
        warnings=_warnings(recipe, tensors, inputs),
        fingerprint=_digest(
            [
                given,
                [asdict(use) if use else None for use in uses],
                [asdict(tensor) for tensor in tensors],
                [shard.file_name for shard in shards],
            ]
        ),
        ingredients={name: _digest(each) for name, each in given.items()},
    )


def _decide(choice: MethodChoice, recipe: Recipe, inputs: Inputs) -> MethodUse:
    method = get(choice.name)
    parameters = method.resolve(method.validate(choice.parameters), inputs.low_rank)
    scale = choice.scale if choice.scale is not None else method.scale(parameters)
    return MethodUse(choice.name, parameters, scale, tuple(expert.weight for expert in recipe.experts))


def _plan_tensors(recipe: Recipe, inputs: Inputs, uses: Sequence[MethodUse | None]) -> tuple[TensorPlan, ...]:
    base = inputs.base
    order = sorted(base.checkpoint.tensors.values(), key=lambda info: (str(info.file), info.begin, info.name))
    planned = []
    for info in order:
        role = base.architecture.role(info.name, info.shape)
        action, reason, group, source = "alias", "", None, BASE
        if info.name in base.aliases:
            source = base.aliases[info.name]
            reason = f"tied to {source}"
        else:
            choice = choose(recipe, base, info.name, role)
            action, reason, group, source = choice.action, choice.reason, choice.group, choice.source
            if action == "merge" and not any(expert.changes(info.name) for expert in inputs.experts):
                action, reason, group = "copy", "no expert changes it", None
            use = uses[group] if group is not None else None
            if use is not None and use.scale == 0:
                action, reason, group = "copy", "scale 0", None
        out_dtype = info.dtype
        if recipe.dtype != "auto" and info.dtype.startswith(("F", "BF")):
            out_dtype = _DTYPES[recipe.dtype]
        planned.append(
            TensorPlan(
                name=info.name,
                component=role.component,
                kind=role.kind,
                shape=info.shape,
                dtype=info.dtype,
                out_dtype=out_dtype,
                action=action,
                reason=reason,
                group=group,
                source=source,
                layout=layout_of(role, info.shape),
            )
        )
    return tuple(planned)


def _check_something_merged(recipe: Recipe, tensors: tuple[TensorPlan, ...], inputs: Inputs) -> None:
    if any(tensor.action == "merge" for tensor in tensors):
        return
    found = Counter(tensor.component for tensor in tensors)
    listing = ", ".join(f"{component} ({count} tensors)" for component, count in found.most_common())
    if inputs.base.checkpoint.config is None:
        hint = "the base has no config.json, so nothing has a role; write: select: {components: [other]}"
    else:
        hint = f"choose among these in the recipe: select: {{components: [{', '.join(found)}]}}"
    reasons = Counter(tensor.reason for tensor in tensors).most_common(1)[0][0]
    raise RecipeError(
        "no tensor would be merged", where="select", got=f"{listing}; mostly: {reasons}", hint=hint
    )


def _shards(recipe: Recipe, tensors: tuple[TensorPlan, ...]) -> tuple[Shard, ...]:
    if recipe.output.format == "adapter":
        return ()
    size = recipe.output.shard_size
    limit = DEFAULT_SHARD_BYTES if size is None else parse_bytes(size, "output.shard_size")
    written = ((each.name, each.out_dtype, each.shape) for each in tensors if each.action != "alias")
    return tuple(plan_shards(written, limit))


def _donor(recipe: Recipe, inputs: Inputs, names: list[str]) -> str | None:
    """Folder whose side files are carried; None where the donor is a bare file."""
    donor = recipe.side_files.donor
    if donor == BASE:
        folder = inputs.base.checkpoint.folder
        return str(folder) if folder else None
    if donor in names:
        where = inputs.expert(donor).folder
        return str(where) if where else None
    if Path(donor).is_dir():
        return donor
    raise RecipeError(
        f"no model called {donor!r} to take side files from",
        where="side_files.from",
        expected="base, the name of an expert, or a folder",
        hint=did_you_mean(donor, [BASE, *names]),
    )


def _warnings(recipe: Recipe, tensors: tuple[TensorPlan, ...], inputs: Inputs) -> tuple[str, ...]:
    found = []
    if inputs.base.architecture.generic and inputs.base.checkpoint.config is not None:
        kind = inputs.base.checkpoint.config.get("model_type")
        found.append(
            f"architecture {kind!r} is not declared; roles are judged by common names (generic). "
            "Look at the plan before you merge."
        )
    merged = {tensor.name for tensor in tensors if tensor.action == "merge"}
    taken = {tensor.source for tensor in tensors if tensor.action == "copy"}
    for expert in inputs.experts:
        if isinstance(expert, AdapterExpert):
            lost = [name for name in expert.tensors if name not in merged]
            if lost and expert.name not in taken:
                found.append(
                    f"adapter {expert.name!r} also changes {len(lost)} tensors that aren't selected "
                    f"(such as {lost[0]}): those changes are left out"
                )
    for index in range(len(recipe.rules)):
        used = any(t.group == index + 1 or t.reason.startswith(f"rule {index}:") for t in tensors)
        if not used:
            found.append(f"rule {index} matches no tensor (or an earlier rule matches first)")
    aliases = [tensor.name for tensor in tensors if tensor.action == "alias"]
    if aliases:
        found.append(f"not written, since the config ties them: {', '.join(aliases)}")
    return tuple(found)


def _given(recipe: Recipe, inputs: Inputs) -> dict[str, Any]:
    """The recipe, every input with its files' sizes and times of change, and versions."""
    base = inputs.base.checkpoint
    return {
        "recipe": recipe.plain(),
        "base": [base.identity(), _stamps(base.headers)],
        **{f"expert {each.name!r}": [each.identity(), _stamps(each.headers)] for each in inputs.experts},
        "version of optmerge or torch": [version("optmerge"), version("torch")],
    }


def _stamps(headers: Mapping[Path, Header]) -> list[list[int]]:
    return [[header.file_bytes, header.modified_ns] for header in headers.values()]


def _digest(data: object) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
