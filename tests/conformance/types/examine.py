"""One model type, tried through the product's doors and compared with the truth."""

from __future__ import annotations

import os
import shutil
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

import optmerge
from conformance.types.truth import Truth, truths
from optmerge.engine.inspect import inspect
from optmerge.engine.plan import Action, Plan
from optmerge.errors import InputError
from optmerge.recipe import Recipe
from worlds.model_types import build, class_of

GRID, NOISE_GRID = 64, 1024
"""Weights are multiples of 1/64 and changes of 1/1024, so that every sum and mean of them is exact."""
RANK, ALPHA = 3, 5
RIGHT = "right"
MAMBA = ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h")
"""Types of which PEFT refuses to adapt `out_proj`, whose weight fused kernels read past the adapter."""
EVERYTHING: dict[str, Any] = {"components": None, "kinds": None}


@dataclass(frozen=True)
class Row:
    """What came of one type; `RIGHT`, or what was wrong.

    Args:
        way: how the product found the roles.
        inspect: whether `inspect` counts the roles that the plan has.
        default: the tensors that are merged if the recipe says nothing.
        components: the component of every tensor.
        kinds: the kind of every tensor.
        merge: the mean of two experts, everything selected, against the same computed here.
        verify: what `verify` says of that merge, its trial generation left aside.
        load: that merge loaded by transformers and saved again, against its files.
        adapter: a LoRA on the language model's linear layers, merged, against PEFT's own merge.
    """

    way: str
    inspect: str = RIGHT
    default: str = RIGHT
    components: str = RIGHT
    kinds: str = RIGHT
    merge: str = RIGHT
    verify: str = RIGHT
    load: str = RIGHT
    adapter: str = RIGHT

    def plain(self) -> dict[str, str]:
        """What isn't right, and the way."""
        return {key: value for key, value in asdict(self).items() if value != RIGHT}


def examine(name: str, folder: Path) -> Row:
    """Tries a type in an empty folder.

    Raises:
        Exception: transformers can't build it.
    """
    model = build(name)
    world = World(name, folder, stored_truths(name, model, folder / "filled"), model)
    world.write()
    plan = world.plan(EVERYTHING)
    merge, verify, load = world.merged()
    return Row(
        way=plan.way.value,
        inspect=world.inspected(plan),
        default=world.default(),
        components=world.roles(plan, "component"),
        kinds=world.roles(plan, "kind"),
        merge=merge,
        verify=verify,
        load=load,
        adapter=world.adapter(),
    )


# --- which parameter a stored tensor is


def stored_truths(name: str, model: PreTrainedModel, folder: Path) -> dict[str, Truth | None]:
    """Truth of every tensor that `save_pretrained` writes; None for buffers.

    Every parameter is filled with a number of its own, and each tensor of the file is asked which it holds:
    several where transformers joins parameters on disk.
    """
    known = truths(name, model)
    by_number: dict[float, Truth] = {}
    with torch.no_grad():
        for number, (key, parameter) in enumerate(model.named_parameters(), start=1):
            parameter.fill_(number)
            by_number[number] = known[key]
        for buffer in model.buffers():
            buffer.fill_(0)
    model.save_pretrained(folder)
    found: dict[str, Truth | None] = {}
    for key, tensor in load_file(folder / "model.safetensors").items():
        numbers = [by_number[each] for each in tensor.unique().tolist() if each in by_number]
        found[key] = None
        for truth in numbers:
            found[key] = truth if found[key] is None else found[key] | truth
    return found


# --- the product's doors


class World:
    """A base, two experts and an adapter of one type, in a folder."""

    def __init__(
        self, name: str, folder: Path, stored: Mapping[str, Truth | None], model: PreTrainedModel
    ) -> None:
        self.name, self.folder, self.stored, self.model = name, folder, stored, model
        self.paths = [folder / each for each in ("base", "e0", "e1")]

    def write(self) -> None:
        """Writes the base and two experts that differ from it everywhere."""
        state = load_file(self.folder / "filled" / "model.safetensors")
        if self.name == "qwen2_5_omni":  # its class asks for the voices of its speakers
            torch.save({}, self.folder / "filled" / "spk_dict.pt")
        generator = torch.Generator().manual_seed(0)
        for number, path in enumerate(self.paths):
            shutil.copytree(self.folder / "filled", path)
            for key, tensor in state.items():
                if not tensor.is_floating_point():
                    continue
                if number == 0:
                    values = torch.randint(-GRID, GRID + 1, tensor.shape, generator=generator) / GRID
                    state[key] = values.to(tensor.dtype)
            changed = {
                key: tensor + torch.randint(-9, 10, tensor.shape, generator=generator) / NOISE_GRID
                if number and tensor.is_floating_point()
                else tensor
                for key, tensor in state.items()
            }
            save_file(changed, path / "model.safetensors", {"format": "pt"})

    def recipe(self, select: Mapping[str, Any] | None, **more: Any) -> dict[str, Any]:
        base, *experts = map(str, self.paths)
        given = {"base": base, "experts": experts, "method": "average", **more}
        return given if select is None else {**given, "select": dict(select)}

    def plan(self, select: Mapping[str, Any] | None) -> Plan:
        return optmerge.plan(self.recipe(select))

    def inspected(self, plan: Plan) -> str:
        """Whether `inspect` says of the base what the plan says."""
        counted: Counter[tuple[str, str]] = Counter()
        for each in inspect(self.paths[0])["roles"]:
            counted[each["component"], each["kind"]] += each["tensors"]
        planned = Counter((each.component, each.kind) for each in plan.tensors)
        return RIGHT if counted == planned else f"{dict(counted)} for {dict(planned)}"

    def default(self) -> str:
        """Which tensors are merged if nothing is said."""
        chosen = default_select()
        required = {key for key, truth in self.stored.items() if truth and _always(truth, chosen)}
        allowed = {key for key, truth in self.stored.items() if truth and _ever(truth, chosen)}
        try:
            plan = self.plan(None)
        except InputError as problem:
            return RIGHT if not required else f"refused: {problem.what}"
        merged = {each.name for each in plan.tensors if each.action is Action.MERGE}
        aliases = {each.name for each in plan.tensors if each.action is Action.ALIAS}
        return _counted({"merged": merged - allowed, "left out": required - merged - aliases})

    def roles(self, plan: Plan, part: str) -> str:
        """Component or kind of every tensor."""
        wrong: dict[str, set[str]] = {}
        for each in plan.tensors:
            truth = self.stored[each.name]
            if truth is None or each.shape == (0,):
                continue
            accepted = truth.components if part == "component" else truth.kinds
            if getattr(each, part) not in accepted:
                wrong.setdefault(f"{'|'.join(sorted(accepted))} called {getattr(each, part)}", set()).add(
                    each.name
                )
        return _counted(wrong)

    def merged(self) -> tuple[str, str, str]:
        """The mean of two experts: its values, what `verify` says, and whether it loads."""
        out = self.folder / "out"
        plan = optmerge.merge(self.recipe(EVERYTHING), out).plan
        base, e0, e1, found = (load_file(each / "model.safetensors") for each in (*self.paths, out))
        acting = {each.name: each.action for each in plan.tensors}
        wrong = [
            key
            for key in base
            if acting[key] is not Action.ALIAS
            and not torch.equal(
                found[key], ((e0[key] + e1[key]) / 2) if acting[key] is Action.MERGE else base[key]
            )
        ]
        unmerged = [
            key
            for key, each in acting.items()
            if each is Action.COPY and base[key].is_floating_point() and base[key].numel()
        ]
        values = _counted({"wrong": set(wrong) | (found.keys() ^ base.keys()), "not merged": set(unmerged)})
        return values, self.verified(out), self.loaded(out)

    def verified(self, out: Path) -> str:
        checks = optmerge.verify(out).checks
        failed = [
            f"{each.name}: {each.detail}" for each in checks if each.ok is False and each.name != "generate"
        ]
        if not failed:
            return RIGHT
        base = {each.name for each in optmerge.verify(self.paths[0]).checks if each.ok is False}
        return self.said(
            next((each for each in failed if each.partition(":")[0] not in base), "as the base's")
        )

    def loaded(self, out: Path) -> str:
        if self.saved_again(out, "again"):
            return RIGHT
        return "wrong" if self.saved_again(self.paths[0], "control") else "nor does the base"

    def saved_again(self, source: Path, name: str) -> bool:
        """Whether a folder, loaded and saved by transformers, holds what it did."""
        try:
            class_of(self.name).from_pretrained(source).save_pretrained(self.folder / name)
        except Exception:  # transformers', of any kind
            return False
        before, after = (load_file(each / "model.safetensors") for each in (source, self.folder / name))
        return before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)

    # --- adapters

    def adapter(self) -> str:
        """A LoRA that PEFT wrote, merged by the product and by PEFT."""
        import peft

        model = class_of(self.name).from_pretrained(self.paths[0], dtype=torch.float32)
        model.save_pretrained(self.folder / "loaded")
        targets = language_layers(self.name, model)
        if not targets:
            return "no layer to adapt"
        settings = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets)
        try:
            wrapped = peft.get_peft_model(model, settings)
        except Exception as problem:  # PEFT's, of any kind
            return f"PEFT can't: {type(problem).__name__}"
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for key, parameter in wrapped.named_parameters():
                if "lora_" in key:
                    parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
        wrapped.save_pretrained(self.folder / "adapter")
        wrapped.merge_and_unload().save_pretrained(self.folder / "theirs")
        return self.compared_with_peft()

    def compared_with_peft(self) -> str:
        recipe = self.recipe(
            EVERYTHING,
            experts=[str(self.folder / "adapter")],
            method={"name": "task_arithmetic", "scale": 1.0},
        )
        try:
            optmerge.merge(recipe, self.folder / "ours")
        except InputError as problem:
            return f"refused: {self.said(problem.what)}"
        base, ours, theirs, loaded = (
            load_file(self.folder / each / "model.safetensors")
            for each in ("base", "ours", "theirs", "loaded")
        )
        if (
            loaded.keys() != base.keys()
        ):  # transformers can't load the base, and gives it new values and names
            return _changed_alike(_changes(base, ours), _changes(loaded, theirs))
        # What transformers itself changes on the way through memory says nothing.
        kept = {key for key in ours.keys() & theirs.keys() if torch.equal(loaded[key], base[key])}
        unequal = {key for key in kept if not _close(ours[key], theirs[key])}
        changed = {key for key in ours if not torch.equal(ours[key], base[key])}
        if not changed:
            return "wrong: nothing changed"
        return _counted({"wrong": unequal | (ours.keys() ^ theirs.keys())})

    def said(self, words: str) -> str:
        """A message without this machine's paths."""
        return words.replace(str(self.folder), "…")[:200]


def language_layers(name: str, model: PreTrainedModel) -> list[str]:
    """Full names of the linear layers of the language model, routers and heads left out."""
    known = truths(name, model)
    language, matrix = frozenset(("language",)), frozenset(("matrix",))
    return [
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and (truth := known.get(f"{path}.weight"))
        and (truth.components, truth.kinds) == (language, matrix)
        and not (name in MAMBA and path.endswith("out_proj"))
    ]


@cache
def default_select() -> tuple[frozenset[str], frozenset[str]]:
    """Components and kinds that a recipe selects if it says nothing."""
    select = Recipe.model_fields["select"].get_default(call_default_factory=True)
    return frozenset(select.components), frozenset(select.kinds)


def _always(truth: Truth, chosen: tuple[frozenset[str], frozenset[str]]) -> bool:
    return truth.components <= chosen[0] and truth.kinds <= chosen[1]


def _ever(truth: Truth, chosen: tuple[frozenset[str], frozenset[str]]) -> bool:
    return bool(truth.components & chosen[0] and truth.kinds & chosen[1])


def _changes(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The difference of every tensor that differs."""
    return {key: after[key] - before[key] for key in after if not torch.equal(after[key], before[key])}


def _changed_alike(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> str:
    """Whether each of our changes is one of theirs, by any name."""
    unlike = {
        key for key, change in ours.items() if not any(_close(change, each) for each in theirs.values())
    }
    return _counted({"wrong": unlike | ({"none"} if not ours or len(ours) != len(theirs) else set())})


def _close(ours: Tensor, theirs: Tensor) -> bool:
    return ours.shape == theirs.shape and torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def _counted(wrong: Mapping[str, set[str]]) -> str:
    parts = [f"{len(names)} {what} ({min(names)})" for what, names in sorted(wrong.items()) if names]
    return "; ".join(parts) or RIGHT


@contextmanager
def quiet() -> Iterator[None]:
    """One thread, no hub, and no warnings or progress bars of other libraries."""
    torch.set_num_threads(1)
    level = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(), patch.dict(os.environ, HF_HUB_OFFLINE="1"):
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.utils.logging.set_verbosity(level)
