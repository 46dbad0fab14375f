"""What an output calls the models it was made of: ids of the hub with commits, or names; never paths."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optmerge.checkpoints.hub import hub_id, names_hub_model
from optmerge.engine.plan import Plan
from optmerge.engine.planning.inputs import Inputs
from optmerge.recipe import BASE

PLACEHOLDER = "path/to/"


def public_name(ref: str, path: Path) -> str:
    """`org/name@commit` of a model of the hub, else the last part of its path.

    Args:
        ref: what the user wrote.
        path: where that led.
    """
    known = hub_id(Path(os.path.abspath(path)))  # noqa: PTH100 (a link's own name, not its target's)
    if known is not None or names_hub_model(ref):
        return known or ref
    return Path(os.path.abspath(path)).name or "model"  # noqa: PTH100


@dataclass(frozen=True)
class PublicNames:
    """The names of a merge's inputs.

    Args:
        base: of the base.
        experts: of the experts, in the order of the recipe.
        local: what the user wrote, and where it led → the name that takes its place; longest first.
    """

    base: str
    experts: tuple[str, ...]
    local: tuple[tuple[str, str], ...]

    def without_paths(self, data: Any) -> Any:
        """JSON-like data in which no text mentions where a model lies."""
        if isinstance(data, str):
            for path, name in self.local:
                data = data.replace(path, name)
            return data
        if isinstance(data, dict):
            return {key: self.without_paths(value) for key, value in data.items()}
        return [self.without_paths(value) for value in data] if isinstance(data, list | tuple) else data

    def recipe(self, plan: Plan, *, placeholders: bool = False, defaults: bool = True) -> dict[str, Any]:
        """The recipe with these names; experts keep the names that seed their masks.

        Args:
            plan: whose recipe.
            placeholders: write `path/to/NAME` for what isn't on the hub, to be replaced by whoever runs it.
            defaults: include what the user didn't say.
        """
        data = plan.recipe.model_dump(mode="json", by_alias=True, exclude_defaults=not defaults)
        data["base"] = _placed(self.base, BASE, placeholders)
        for expert, public, name in zip(data["experts"], self.experts, plan.expert_names, strict=True):
            expert |= {"model": _placed(public, name, placeholders), "name": name}
        donor = plan.recipe.side_files.donor
        if donor not in (BASE, *plan.expert_names):
            folder = public_name(donor, Path(donor))
            data["side_files"] = {"from": _placed(folder, folder, placeholders)}
        return data


def _placed(public: str, name: str, placeholders: bool) -> str:
    return PLACEHOLDER + name if placeholders and not on_hub(public) else public


def on_hub(public: str) -> bool:
    """Whether a public name is an id of the hub; names of local models have no slash."""
    return "/" in public


def public_names(plan: Plan, inputs: Inputs) -> PublicNames:
    """The names for an output made by a plan."""
    recipe, base = plan.recipe, inputs.base.checkpoint
    pairs = [(recipe.base, base.path), (base.ref, base.path)]
    pairs += [(spec.model, expert.path) for spec, expert in zip(recipe.experts, inputs.experts, strict=True)]
    if plan.side_files is not None:
        pairs.append((recipe.side_files.donor, Path(plan.side_files)))
    named = {text: public_name(ref, path) for ref, path in pairs for text in (ref, str(path))}
    named |= {os.path.abspath(path): public_name(ref, path) for ref, path in pairs}  # noqa: PTH100
    local = {text: name for text, name in named.items() if "/" in text and text != name}
    return PublicNames(
        base=public_name(recipe.base, base.path),
        experts=tuple(public_name(ref, path) for ref, path in pairs[2 : 2 + len(recipe.experts)]),
        local=tuple(sorted(local.items(), key=lambda each: -len(each[0]))),
    )
