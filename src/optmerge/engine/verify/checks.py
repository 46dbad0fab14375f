"""Proof that an output is what it should be: complete, finite, loadable by transformers, and alive."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from optmerge.architectures import Architecture, resolve
from optmerge.checkpoints.adapters import is_adapter, open_adapter
from optmerge.checkpoints.checkpoint import Checkpoint, open_checkpoint
from optmerge.checkpoints.hub import names_hub_model
from optmerge.checkpoints.json_files import read_object
from optmerge.checkpoints.reader import Reader
from optmerge.engine.changes import changes_from, is_change_warning
from optmerge.engine.output.folder import PROVENANCE, STATE
from optmerge.engine.output.places import remembered_base
from optmerge.engine.output.router import FOLDER, is_routed, read_router
from optmerge.engine.plan import PARAMETER_KINDS, Action, Change
from optmerge.engine.planning.adapter_matching import match_adapter
from optmerge.engine.planning.ends import aliases, take_apart
from optmerge.engine.planning.inputs import Base
from optmerge.engine.planning.opening import by_canonical
from optmerge.engine.running.sources import all_finite
from optmerge.engine.verify.transformers_load import (
    Outcome,
    load_adapter_strictly,
    load_strictly,
    smoke_generation,
    support_of,
)
from optmerge.errors import InputError, OptMergeError, OutputError
from optmerge.recipe import BASE, Expert

BLOCK = 1 << 22
"""Elements read at a time."""


@dataclass(frozen=True)
class Check:
    """One thing that `verify` looked at.

    Args:
        name: what.
        ok: True, False, or None where it couldn't be looked at.
        detail: what was found.
    """

    name: str
    ok: bool | None
    detail: str


@dataclass(frozen=True)
class Verification:
    """Everything that `verify` looked at.

    Args:
        path: the checkpoint.
        checks: in the order they ran.
        delta_norms: component → ‖W − W₀‖/‖W₀‖, where the base is known.
        changes: how far the experts moved, as the merge has recorded it.
        warnings: what the merge said that the output hasn't of its experts, or that it is its base.
    """

    path: Path
    checks: tuple[Check, ...]
    delta_norms: dict[str, float]
    changes: tuple[Change, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return all(check.ok is not False for check in self.checks)

    def plain(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {**asdict(self), "path": str(self.path), "ok": self.ok}


def verify(path: str | Path, *, base: str | Path | None = None, load: bool = True) -> Verification:
    """Looks at a merged checkpoint or adapter from every side.

    Coverage (every tensor of the provenance is there), finiteness, deltas per component against the base
    and copies bit-identical to it, a strict load in transformers (no key missing or unexpected), ties, and a
    smoke generation. No remote code is run: such models are checked from their files only.

    Args:
        path: the output folder, or any checkpoint.
        base: what to compare with; the provenance's by default.
        load: False skips transformers and the generation (large models, little memory).

    Raises:
        InputError: not a checkpoint at all, or an unfinished merge.
    """
    path = Path(path)
    if (path / STATE).is_dir():
        raise OutputError(
            "the folder holds an unfinished merge",
            where=path,
            hint="finish it with `optmerge merge … --resume`",
        )
    provenance = _provenance(path)
    changes, warnings = changes_from(provenance.get("changes")), _warnings_of(provenance)
    if path.is_dir() and is_adapter(path):
        return replace(_verify_adapter(path, base, load), changes=changes, warnings=warnings)
    checkpoint = open_checkpoint(path)
    checks = [_coverage(checkpoint, provenance), _finite(checkpoint, provenance)]
    if is_routed(path):
        checks += _routed_files(path, checkpoint)
    norms: dict[str, float] = {}
    recorded = (provenance.get("recipe") or {}).get("base")
    reference = _base_of(path, base, provenance)
    architecture = resolve(checkpoint.config, checkpoint.tensors)
    if base is None and (architecture.composed or "composed" in provenance):
        checks.append(Check("deltas", None, "composed of several models, so no one base has all its tensors"))
    elif reference is None:
        checks.append(Check("deltas", None, f"the base isn't at hand ({recorded or 'not recorded'})"))
    else:
        norms, changed = _compare(checkpoint, _untied(reference, provenance), provenance)
        checks.append(changed)
    if not load:
        checks.append(Check("load", None, "not asked for"))
    elif checkpoint.config is None:
        checks.append(Check("load", None, "no config.json, so no class to load it with"))
    else:
        model, loaded = _attempt("load", lambda: load_strictly(path, checkpoint.config or {}, architecture))
        checks.append(loaded)
        if model is not None:
            checks.append(_ties(model, checkpoint))
            asked = _attempt("generate", lambda: smoke_generation(model, path, architecture))[1]
            del model  # before the base is loaded
            checks.append(asked if architecture.support else _controlled(asked, reference))
        if loaded.ok and is_routed(path):
            checks += _parts(path, checkpoint, architecture)
        if architecture.support:
            checks.append(_attempt("code", lambda: support_of(architecture).check_code(path))[1])
    return Verification(path, tuple(checks), norms, changes, warnings)


def _warnings_of(provenance: dict[str, Any]) -> tuple[str, ...]:
    """What the merge warned of that has to do with what the experts changed."""
    found = provenance.get("warnings")
    texts = [text for text in found if isinstance(text, str)] if isinstance(found, list) else []
    return tuple(text for text in texts if is_change_warning(text))


def _verify_adapter(path: Path, base: str | Path | None, load: bool) -> Verification:
    adapter = open_adapter(path)
    checks = [_finite(open_checkpoint(adapter.file), {})]
    recorded = adapter.base_model_name
    reference = _open_base(base, recorded)
    if reference is None:
        checks.append(Check("fits the base", None, f"the base isn't at hand ({recorded or 'not recorded'})"))
        return Verification(path, tuple(checks), {})
    architecture = resolve(reference.config, reference.tensors)
    names = by_canonical(architecture, reference)
    known = Base(reference, architecture, aliases(architecture, reference, names), names)
    try:
        match_adapter(adapter, Expert(model=str(path), any_base=True), known, [])
        checks.append(Check("fits the base", True, f"{len(adapter.targets)} targets"))
    except InputError as problem:
        checks.append(Check("fits the base", False, problem.what))
    if load and reference.config is not None:
        model, loaded = _attempt(
            "load",
            lambda: load_adapter_strictly(path, reference.path, reference.config or {}, architecture),
        )
        checks.append(loaded)
        if model is not None:
            asked = _attempt("generate", lambda: smoke_generation(model, reference.path, architecture))[1]
            checks.append(asked if architecture.support else _controlled(asked, reference))
    return Verification(path, tuple(checks), {})


def _routed_files(path: Path, checkpoint: Checkpoint) -> list[Check]:
    """Whether the router of a routed output is whole, and every part is finite and fits the merged model."""
    try:
        router = read_router(path)
    except InputError as problem:
        return [Check("router", False, problem.what)]
    architecture = resolve(checkpoint.config, checkpoint.tensors)
    names = by_canonical(architecture, checkpoint)
    known = Base(checkpoint, architecture, aliases(architecture, checkpoint, names), names)
    read = checkpoint.tensors.get(names.get(f"{router.module}.weight", ""))
    count, last, width = router.directions.shape
    fits = read is not None and width in read.shape and bool(torch.isfinite(router.directions).all())
    words = f"{count} experts, {last} directions each, reads {router.module}"
    found = [Check("router", fits, words if fits else f"{words}, which the model lacks")]
    for name in router.experts:
        folder = path / FOLDER / name
        try:
            adapter = open_adapter(folder)
            match_adapter(adapter, Expert(model=str(folder), any_base=True), known, [])
            finite = _finite(open_checkpoint(adapter.file), {})
            words = f"{len(adapter.targets)} targets fit; {finite.detail}"
            found.append(Check(f"part {name}", finite.ok, words))
        except InputError as problem:
            found.append(Check(f"part {name}", False, problem.what))
    return found


def _parts(path: Path, checkpoint: Checkpoint, architecture: Architecture) -> list[Check]:
    """Whether PEFT puts every part onto the merged model, strictly."""
    config = checkpoint.config or {}
    return [
        _attempt(f"load {name}", lambda name=name: _load_part(path, name, config, architecture))[1]  # type: ignore[misc]
        for name in read_router(path).experts
    ]


def _load_part(path: Path, name: str, config: dict[str, Any], architecture: Architecture) -> Outcome:
    return load_adapter_strictly(path / FOLDER / name, path, config, architecture)


def _provenance(path: Path) -> dict[str, Any]:
    """What an output says of itself, as far as it is what this program writes; it may be anyone's file."""
    try:
        found = read_object(path / PROVENANCE, "provenance")
    except InputError:
        return {}
    recipe, tensors = found.get("recipe"), found.get("tensors")
    if not isinstance(recipe, dict) or not isinstance(recipe.get("base"), str | None):
        found.pop("recipe", None)
    if not isinstance(found.get("base"), dict):
        found.pop("base", None)
    entries = tensors.values() if isinstance(tensors, dict) else [None]
    if not isinstance(found.get("vocabulary"), dict | None):
        found.pop("vocabulary")
    if not all(isinstance(entry, dict) and isinstance(entry.get("action"), str) for entry in entries):
        found.pop("tensors", None)
    return found


def _open_base(given: str | Path | None, recorded: str | None) -> Checkpoint | None:
    """The base the user gave, which must be there; or the recorded one, if it still is."""
    if given is not None:
        return open_checkpoint(given)
    try:
        return open_checkpoint(recorded) if recorded else None
    except OptMergeError:
        return None


def _base_of(path: Path, given: str | Path | None, provenance: dict[str, Any]) -> Checkpoint | None:
    """The base of an output: as `_open_base`, or the local model that the cache or the folder beside holds.

    An output doesn't say where its base lies, so what is found has to have the recorded headers.
    """
    recorded = (provenance.get("recipe") or {}).get("base")
    headers = (provenance.get("base") or {}).get("headers")
    if given is not None or headers is None or (recorded and names_hub_model(recorded)):
        return _open_base(given, recorded)
    places = [remembered_base(str(provenance.get("fingerprint")))]
    places += [path.absolute().parent / recorded] if recorded and "/" not in recorded else []
    for place in places:
        found = _open_base(None, str(place)) if place is not None and place.exists() else None
        if found is not None and found.identity() == headers:
            return found
    return None


def _untied(base: Checkpoint, provenance: dict[str, Any]) -> Checkpoint:
    """The base with its ends apart, where the merge took them apart."""
    if not (provenance.get("recipe") or {}).get("untie"):
        return base
    architecture = resolve(base.config, base.tensors)
    names = by_canonical(architecture, base)
    return take_apart(Base(base, architecture, aliases(architecture, base, names), names)).checkpoint


def _attempt(name: str, action: Callable[[], Outcome]) -> tuple[Any, Check]:
    """Runs a check that goes through other libraries; whatever they raise is a failed check."""
    try:
        found, ok, detail = action()
    except Exception as problem:
        return None, Check(name, False, f"{type(problem).__name__}: {problem}".splitlines()[0][:300])
    return found, Check(name, ok, detail)


def _controlled(asked: Check, base: Checkpoint | None) -> Check:
    """A failed generation, passed over where the base fails in the same way: then the merge isn't at fault.

    Models that need a picture or a sound can't be asked with text alone. Where no base is at hand, an error
    about the arguments is taken for that.
    """
    kind = asked.detail.partition(":")[0]
    if asked.ok is not False:
        return asked
    if base is None:
        about_arguments = kind in ("TypeError", "ValueError")
        words = f"skipped: it can't be asked with text alone, and no base is at hand ({asked.detail})"
        return Check("generate", None, words) if about_arguments else asked
    own = resolve(base.config, base.tensors)
    model, loaded = _attempt("load", lambda: load_strictly(base.path, base.config or {}, own))
    if model is None:
        return Check("generate", False, f"{asked.detail}; the base can't be asked: {loaded.detail}"[:300])
    control = _attempt("generate", lambda: smoke_generation(model, base.path, own))[1]
    if control.ok is not False or control.detail.partition(":")[0] != kind:
        return asked
    return Check(
        "generate", None, f"skipped: the base can't be asked with text alone either ({asked.detail})"
    )


def _coverage(checkpoint: Checkpoint, provenance: dict[str, Any]) -> Check:
    planned = provenance.get("tensors")
    if not isinstance(planned, dict):
        return Check("coverage", None, f"no {PROVENANCE}")
    expected = {name for name, entry in planned.items() if entry.get("action") != "alias"}
    missing, extra = expected - checkpoint.tensors.keys(), checkpoint.tensors.keys() - expected
    if missing or extra:
        return Check("coverage", False, f"missing {sorted(missing)[:3]}, not planned {sorted(extra)[:3]}")
    counts: dict[str, int] = defaultdict(int)
    for entry in planned.values():
        counts[entry["action"]] += 1
    words = ", ".join(f"{count} {action}" for action, count in sorted(counts.items(), reverse=True))
    return Check("coverage", True, f"all {len(planned)} tensors accounted for: {words}")


def _finite(checkpoint: Checkpoint, provenance: dict[str, Any]) -> Check:
    """Whether everything is finite but what a merge lets pass: infinite constants, and what was allowed."""
    architecture = resolve(checkpoint.config, checkpoint.tensors)
    allowed = (provenance.get("recipe") or {}).get("allow_nonfinite") is True
    entries = provenance.get("tensors") or {}
    passed = []
    with checkpoint.reader() as reader:
        for name, info in checkpoint.tensors.items():
            nan, infinite = _not_finite(reader, name, info.numel)
            if not nan and not infinite:
                continue
            entry = entries.get(name, {"action": Action.COPY, "source": BASE})
            constant = architecture.role(name, info.shape).kind not in PARAMETER_KINDS
            copied = entry["action"] == Action.COPY
            if not copied or not (allowed or (constant and not nan and entry.get("source") == BASE)):
                return Check("finite", False, f"{name} holds {nan} NaN and {infinite} infinite values")
            passed.append(name)
    words = f"{len(checkpoint.tensors)} tensors, {checkpoint.nbytes / 1e6:,.1f} MB"
    if passed:
        words += f"; not finite, copied as they were: {len(passed)}, such as {passed[0]}"
    return Check("finite", True, words)


def _not_finite(reader: Reader, name: str, numel: int) -> tuple[int, int]:
    """How many NaN and how many infinite values a tensor holds."""
    nan = infinite = 0
    for start in range(0, numel, BLOCK):
        values = reader.read_flat(name, start, min(numel, start + BLOCK))
        if not all_finite(values):
            values = (torch.view_as_real(values) if values.is_complex() else values).float()
            nan, infinite = nan + int(values.isnan().sum()), infinite + int(values.isinf().sum())
    return nan, infinite


def _compare(
    checkpoint: Checkpoint, base: Checkpoint, provenance: dict[str, Any]
) -> tuple[dict[str, float], Check]:
    """Relative delta norms per component, and whether every copy is bit-identical to the base."""
    architecture = resolve(checkpoint.config, checkpoint.tensors)
    change: dict[str, float] = defaultdict(float)
    size: dict[str, float] = defaultdict(float)
    altered = []
    resized = bool((provenance.get("vocabulary") or {}).get("rows"))
    with checkpoint.reader() as ours, base.reader() as theirs:
        for name, info in checkpoint.tensors.items():
            role = architecture.role(name, info.shape)
            # A merge of several vocabularies gives rows of the base, padding among them, to new tokens.
            by_token = resized and (role.kind in ("embedding", "head") or name.endswith("head.bias"))
            known = base.tensors[name].shape if name in base.tensors else None
            if known is None or known[int(by_token) :] != info.shape[int(by_token) :]:
                return {}, Check("deltas", False, f"the base has no {name} of shape {list(info.shape)}")
            entry = {} if by_token else (provenance.get("tensors") or {}).get(name, {})
            component, size_of_both = role.component, min(info.numel, base.tensors[name].numel)
            same = True
            for start in range(0, size_of_both, BLOCK):
                span = (start, min(size_of_both, start + BLOCK))
                new, old = ours.read_flat(name, *span), theirs.read_flat(name, *span)
                same = same and _bits_equal(new, old.to(new.dtype))
                if new.is_floating_point():
                    before = old.double()
                    difference = (new.double() - before).nan_to_num(0.0, 0.0, 0.0)
                    change[component] += float(difference.square().sum())
                    size[component] += float(before.nan_to_num(0.0, 0.0, 0.0).square().sum())
            if not same and entry.get("action") == "copy" and entry.get("source") == "base":
                altered.append(name)
    norms = {part: math.sqrt(change[part] / size[part]) if size[part] else 0.0 for part in sorted(change)}
    if altered:
        return norms, Check("deltas", False, f"{altered[0]} should be the base's, and isn't")
    words = ", ".join(f"{part} {norm:.2%}" for part, norm in norms.items())
    return norms, Check("deltas", True, f"‖W − W₀‖/‖W₀‖ by component: {words}; copies identical to the base")


def _bits_equal(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two tensors of one type hold the same bits; a NaN is the same as itself."""
    return torch.equal(first.contiguous().view(torch.uint8), second.contiguous().view(torch.uint8))


def _ties(model: Any, checkpoint: Checkpoint) -> Check:
    """Parameters the config ties share memory once loaded."""
    architecture = resolve(checkpoint.config, checkpoint.tensors)
    pairs = architecture.tied(checkpoint.config or {})
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for alias, source in pairs:
        if alias in parameters and source in parameters and parameters[alias] is not parameters[source]:
            stored_apart = any(architecture.canonical(name) == alias for name in checkpoint.tensors)
            return Check("ties", stored_apart, f"{alias} is its own tensor, though the config ties it")
    return Check(
        "ties", True, ", ".join(f"{alias} = {source}" for alias, source in pairs) or "none in the config"
    )
