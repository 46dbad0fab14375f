"""Making a plan: a recipe and opened inputs decide what happens to every tensor."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from optmerge.checkpoints.safetensors_format import Header
from optmerge.checkpoints.shards import DEFAULT_SHARD_BYTES, Shard, plan_shards
from optmerge.engine.changes import is_kept, is_read_whole, with_squares
from optmerge.engine.plan import Action, Cause, MethodUse, Plan, TensorPlan
from optmerge.engine.planning.configs import config_warnings
from optmerge.engine.planning.cost import cost_of, tolerance_of, with_parts
from optmerge.engine.planning.found_by_peft import check_found_by_peft
from optmerge.engine.planning.inputs import AdapterExpert, Base, FullExpert, Inputs
from optmerge.engine.planning.parts import plan_routed
from optmerge.engine.planning.request import method_of, parse_bytes
from optmerge.engine.planning.sampling import sample_squares
from optmerge.engine.planning.selection import plan_tensors
from optmerge.methods import ModifiedMethod
from optmerge.recipe import AUTO, BASE, MethodChoice, Recipe

TOWERS = ("vision", "video", "audio", "projector")
"""Components that no default selection is expected to merge."""


def make_plan(recipe: Recipe, inputs: Inputs) -> Plan:
    """Decides a merge from headers; a few KiB of each tensor say how far the experts moved.

    Args:
        recipe: a recipe that `check_recipe` has let through.
        inputs: the base and the experts, opened and matched.

    Raises:
        InputError: anything that would stop the merge and that headers can show.
    """
    choices = (recipe.method, *(rule.method for rule in recipe.rules))
    uses = tuple(_decide(choice, recipe, inputs) if choice else None for choice in choices)
    tensors = plan_tensors(recipe, inputs, uses)
    unknown = check_found_by_peft(recipe, tensors, inputs)
    routed = plan_routed(recipe, tensors, inputs)
    cost = cost_of(tensors, uses, inputs, recipe)
    shards = _shards(recipe, tensors)
    given = _given(recipe, inputs)
    experts = tuple(
        {"name": expert.name, "model": expert.spec.model, "weight": expert.spec.weight, **expert.identity()}
        for expert in inputs.experts
    )
    base = {
        "model": inputs.base.checkpoint.ref,
        "identity": inputs.base.checkpoint.identity(),
        "bytes": inputs.base.checkpoint.nbytes,
    }
    plan = Plan(
        recipe=recipe,
        architecture=inputs.base.architecture.name,
        way=inputs.base.architecture.way,
        expert_names=tuple(recipe.expert_names()),
        experts=experts,
        base=base,
        methods=uses,
        tensors=tensors,
        shards=shards,
        side_files=_donor(recipe, inputs),
        cost=cost if routed is None else with_parts(cost, routed, tensors, inputs),
        warnings=(*_warnings(recipe, tensors, inputs), *_approximations(uses, tensors, inputs), *unknown),
        fingerprint=_digest(
            [
                given,
                [use.plain() if use else None for use in uses],
                [tensor.plain() for tensor in tensors],
                [shard.file_name for shard in shards],
            ]
        ),
        ingredients={name: _digest(each) for name, each in given.items()},
        vocabulary={} if inputs.tokens is None else inputs.tokens.plain(),
        routed=routed,
    )
    return _with_measuring(with_squares(plan, sample_squares(tensors, inputs)), inputs)


def _with_measuring(plan: Plan, inputs: Inputs) -> Plan:
    """The plan whose cost has what is read for nothing but to know how far the experts moved.

    That is the base of weights that are averaged, and tensors of experts that the output has nothing of.
    """
    read = 0
    full = not any(isinstance(expert, AdapterExpert) for expert in inputs.experts)
    for tensor in plan.tensors:
        if tensor.action is Action.MERGE and full and plan.use(tensor).method.merges_weights:
            read += inputs.base.info(tensor.name).nbytes
        for expert in inputs.experts:
            sampled = plan.squares[expert.name].get(tensor.name)
            if sampled is not None and not is_kept(tensor, expert.name):
                read += expert.input_bytes(tensor.name) if is_read_whole(tensor, expert.name, sampled) else 0
    return replace(plan, cost=replace(plan.cost, bytes_read=plan.cost.bytes_read + read))


def _decide(choice: MethodChoice, recipe: Recipe, inputs: Inputs) -> MethodUse:
    method = method_of(choice)
    parameters = method.resolve(method.validate(choice.parameters), inputs.low_rank)
    rule = method.auto(parameters)
    plain, modifiers = (
        (method.inner, method.modifiers) if isinstance(method, ModifiedMethod) else (method, ())
    )
    over_depth = choice.strength if isinstance(choice.strength, list) else []
    strength = 1.0 if isinstance(choice.strength, list) else choice.strength
    use = MethodUse(
        name=plain.name,
        parameters=parameters,
        scale=AUTO,
        weights=tuple(expert.weight for expert in recipe.experts),
        depth=tuple(over_depth),
        modifiers=modifiers,
    )
    if isinstance(choice.scale, float):
        return replace(use, scale=choice.scale * strength)
    if rule is None:
        return replace(use, scale=method.scale(parameters) * strength)
    if rule == "own":
        return replace(use, scale=strength, auto=rule)
    return replace(use, auto=rule, strength=strength)


def _shards(recipe: Recipe, tensors: tuple[TensorPlan, ...]) -> tuple[Shard, ...]:
    if recipe.output.format == "adapter":
        return ()
    size = recipe.output.shard_size
    limit = DEFAULT_SHARD_BYTES if size is None else parse_bytes(size, "output.shard_size")
    written = ((each.name, each.out_dtype, each.shape) for each in tensors if each.action is not Action.ALIAS)
    return tuple(plan_shards(written, limit))


def _donor(recipe: Recipe, inputs: Inputs) -> str | None:
    """Folder whose side files are carried; None where the donor is a bare file, or makes its own."""
    donor = recipe.side_files.donor
    if donor != BASE and donor not in recipe.expert_names():
        return donor
    if donor == BASE and inputs.base.side_files is not None:
        return None
    folder = inputs.base.checkpoint.folder if donor == BASE else inputs.expert(donor).folder
    return None if folder is None else str(folder)


def _warnings(recipe: Recipe, tensors: tuple[TensorPlan, ...], inputs: Inputs) -> tuple[str, ...]:
    found = [*inputs.notes, *_architecture_warnings(tensors, inputs.base)]
    if recipe.untie and not inputs.base.untied:
        found.append("untie does nothing: the base's embedding and head are two tensors already")
    for expert in inputs.experts:
        if isinstance(expert, FullExpert):
            found += config_warnings(expert.checkpoint, expert.name, inputs.base)
        else:
            found += [
                f"adapter {expert.name!r}: what lies beside it in {file.name} is taken as part of it "
                f"({len(header.tensors)} tensor{'s' if len(header.tensors) > 1 else ''})"
                for file, header in expert.adapter.beside.items()
            ]
            if not expert.adapter.listed:
                found.append(
                    f"adapter {expert.name!r}: it isn't known whether pickles lie beside it on the hub, and "
                    "any are left out: the cache has no list of its files; merge once with the hub in reach"
                )
            if expert.renamed:
                found.append(
                    f"adapter {expert.name!r} names its targets as another model does: "
                    f"{expert.renamed[0]} is taken for {expert.renamed[1]}"
                )
    for index in range(len(recipe.rules)):
        found += _rule_warnings(index, [tensor for tensor in tensors if tensor.reason.rule == index])
    aliases = [tensor.name for tensor in tensors if tensor.action is Action.ALIAS]
    if aliases:
        found.append(f"not written, since the config ties them: {', '.join(aliases)}")
    return tuple(found)


def _architecture_warnings(tensors: Sequence[TensorPlan], base: Base) -> list[str]:
    """What to say of roles that are guessed, or of tensors that the model's class has no place for."""
    architecture, config = base.architecture, base.checkpoint.config
    if config is None:
        return []
    strangers = architecture.strangers(base.checkpoint.tensors)
    if strangers:
        return [
            f"{architecture.reason} has no place for {len(strangers)} of the base's tensors "
            f"(such as {strangers[0]}): their roles are judged by common names"
        ]
    if not architecture.generic:
        return []
    found = [
        f"architecture {config.get('model_type')!r} is not declared, and {architecture.reason}; roles are "
        "judged by common names (generic). Look at the plan before you merge."
    ]
    outside = [each for each in tensors if each.component not in TOWERS and each.kind == "matrix"]
    unknown = [
        each for each in outside if each.reason.cause is Cause.OTHER_COMPONENT and each.component == "other"
    ]
    if 2 * len(unknown) > len(outside):
        found.append(
            f"{len(unknown)} of {len(outside)} matrices outside of recognised towers are not merged (such as "
            f"{unknown[0].name}), since no component is known for them; if they belong to the language "
            "model, write in the recipe: select: {components: [language, other], include: ['…']}"
        )
    return found


def _approximations(
    uses: Sequence[MethodUse | None], tensors: Sequence[TensorPlan], inputs: Inputs
) -> list[str]:
    """What to say of each method that doesn't solve all of its matrices exactly."""
    found = []
    for index, use in enumerate(uses):
        if use is None:
            continue
        mine = [tensor for tensor in tensors if tensor.method_index == index]
        wide = {each.name: allowed for each in mine if (allowed := tolerance_of(each, use, inputs))}
        if wide:
            count = f"{len(wide)} wide tensors are" if len(wide) > 1 else "1 wide tensor is"
            found.append(
                f"{use.name}: {count} approximated (such as {next(iter(wide))}) where the estimated error is "
                f"at most {max(wide.values()):.2g} of the merged change; elsewhere the eigenproblem is "
                "solved, which takes long; tolerance: 0 solves it everywhere"
            )
    return found


def _rule_warnings(index: int, matched: Sequence[TensorPlan]) -> list[str]:
    """What to say of a rule that does nothing.

    Args:
        index: the rule's.
        matched: tensors that the rule decided on.
    """
    if not matched:
        return [f"rule {index} matches no tensor (or an earlier rule matches first)"]
    if any(tensor.reason.cause in (Cause.RULE_MERGES, Cause.RULE_COPIES) for tensor in matched):
        return []
    count = f"{len(matched)} tensor{'s' if len(matched) > 1 else ''}"
    reasons = ", ".join(dict.fromkeys(tensor.reason.words for tensor in matched))
    return [f"rule {index} matches {count}, but merges none of them: {reasons}"]


def _given(recipe: Recipe, inputs: Inputs) -> dict[str, Any]:
    """The recipe, every input with its files' sizes and times of change, and versions."""
    base = inputs.base.checkpoint
    return {
        "recipe": recipe.plain(),
        "base": [base.identity(), _stamps(base.headers)],
        **{f"expert {each.name!r}": [each.identity(), _stamps(each.headers)] for each in inputs.experts},
        **({} if inputs.tokens is None else {"tokenizers": inputs.tokens.digest()}),
        "version of optmerge or torch": [version("optmerge"), version("torch")],
    }


def _stamps(headers: Mapping[Path, Header]) -> list[list[int]]:
    return [[header.file_bytes, header.modified_ns] for header in headers.values()]


def _digest(data: object) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
