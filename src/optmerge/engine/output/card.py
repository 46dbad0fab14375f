"""The model card of a merged model: what people and the hub read, with a recipe that can be run."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from optmerge.checkpoints.paths import member, require_regular_file
from optmerge.engine.changes import percent
from optmerge.engine.output.folder import PROVENANCE
from optmerge.engine.output.public_names import PLACEHOLDER, PublicNames, on_hub
from optmerge.engine.plan import Change, MethodUse, Plan
from optmerge.engine.planning.inputs import Inputs
from optmerge.engine.running.scales import scale_words
from optmerge.errors import InputError
from optmerge.recipe import BASE
from optmerge.recipe.files import PlainLoader

CARD = "README.md"
_CARD_BYTES, _LONGEST_VALUE = 100_000, 100
_MERGED = PLACEHOLDER + "merged"


def model_card(
    plan: Plan,
    inputs: Inputs,
    scales: Sequence[Mapping[str, Any] | None],
    names: PublicNames,
    out: Path,
    details: Mapping[str, Any],
) -> str:
    """A model card with the hub's metadata: base models, licences, what the model is for, recipe.

    Args:
        plan: what was done.
        inputs: what it was done with.
        scales: what was chosen for each of the plan's methods, as `Scales.plain` gives it.
        names: what the inputs are called.
        out: folder that holds everything else of the output.
        details: of the run, as for `write_provenance`.
    """
    heads = {
        name: _card_head(folder) if folder is not None else {} for name, folder in _folders(inputs).items()
    }
    count = len(plan.experts)
    return "\n".join(
        [
            "---",
            _yaml(_metadata(plan, inputs, names, heads)),
            "---",
            "",
            "# Merged model",
            "",
            f"Merged with OptMerge {version('optmerge')} by {_method_words(plan.methods[0], scales[0])}, "
            f"from one base and {count} expert{'s' if count > 1 else ''}.",
            "",
            "| model | role | weight | licence |",
            "|---|---|---|---|",
            *_model_rows(plan, names, heads),
            "",
            *_usage(plan, inputs, names, out),
            "## What was done",
            "",
            *_action_rows(plan, scales),
            "",
            *_truncation_words(details),
            *_routed_words(plan, details),
            *_change_rows(plan.changes),
            *_recipe(plan, inputs, names),
        ]
    )


def _routed_words(plan: Plan, details: Mapping[str, Any]) -> list[str]:
    """What lies beside a merge whose experts have parts, and how PEFT loads it."""
    if plan.routed is None:
        return []
    routed, first = details["routed"], plan.expert_names[0]
    return [
        "## Parts of the experts",
        "",
        f"`experts/NAME` holds a small PEFT adapter of this model for {', '.join(plan.expert_names)}; "
        f"all of them and the router have {routed['weights']:,} weights. `experts/router.json` and "
        "`experts/router.safetensors` choose among them for an input.",
        "",
        "```python",
        "from peft import PeftModel",
        "",
        f'model = PeftModel.from_pretrained(model, "{_MERGED}/experts/{first}", adapter_name="{first}")',
        *(f'model.load_adapter("{_MERGED}/experts/{name}", "{name}")' for name in plan.expert_names[1:2]),
        f'model.set_adapter("{first}")',
        "```",
        "",
    ]


def _metadata(
    plan: Plan, inputs: Inputs, names: PublicNames, heads: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    """Metadata of the hub. It links `base_model`, so models that aren't on the hub aren't listed there."""
    public = dict.fromkeys(each.partition("@")[0] for each in (names.base, *names.experts) if on_hub(each))
    head: dict[str, Any] = {}
    if public:
        head |= {"base_model": list(public), "base_model_relation": "merge"}
    head["library_name"] = "peft" if plan.recipe.output.format == "adapter" else "transformers"
    tag = heads[BASE].get("pipeline_tag") or _pipeline_tag(inputs.base.checkpoint.config or {})
    if tag is not None:
        head["pipeline_tag"] = tag
    head["tags"] = ["merge", "optmerge"]
    licences = {head.get("license") for head in heads.values()}
    if licences != {None}:
        single = licences.pop() if len(licences) == 1 else None
        head["license"] = single or "other"
    return head


_TASKS = (
    (r"ForCausalLM$|LMHeadModel$", "text-generation"),
    (r"ForMaskedLM$", "fill-mask"),
    (r"ForSequenceClassification$", "text-classification"),
    (r"^(CLIP|Siglip2?|AltCLIP|ChineseCLIP)Model$", "zero-shot-image-classification"),
    (
        r"ForSpeechSeq2Seq$|^(Whisper|Speech2Text|Moonshine)ForConditionalGeneration$",
        "automatic-speech-recognition",
    ),
)


def _pipeline_tag(config: Mapping[str, Any]) -> str | None:
    """The hub's word for what a model does, by its parts and its class; None where they don't tell."""
    names = config.get("architectures") or [""]
    parts = {key for key in ("vision", "audio") if config.get(f"{key}_config")}
    if config.get("towers") or len(parts) == 2:
        return "any-to-any"
    if re.search(r"ForConditionalGeneration$|ForCausalLM$|ForImageTextToText$", names[0]) and parts:
        return "image-text-to-text" if "vision" in parts else "audio-text-to-text"
    return next((task for pattern, task in _TASKS if re.search(pattern, names[0])), None)


def _usage(plan: Plan, inputs: Inputs, names: PublicNames, out: Path) -> list[str]:
    """A snippet that loads the model, by its class."""
    config = inputs.base.checkpoint.config
    if config is None:
        lines = [
            "from safetensors.torch import load_file",
            "",
            f'tensors = load_file("{_MERGED}/model.safetensors")',
        ]
    elif inputs.base.side_files is not None:  # an omni model, which OptMerge itself loads
        lines = ["from optmerge.evaluate import chat", "", f'model = chat.load("{_MERGED}")']
    else:
        lines = _loading(plan, config, names, out)
    return ["## Use", "", "```python", *lines, "```", ""]


def _loading(plan: Plan, config: Mapping[str, Any], names: PublicNames, out: Path) -> list[str]:
    remote = config.get("auto_map")
    remote = remote if isinstance(remote, dict) else {}
    known = (config.get("architectures") or ["AutoModel"])[0]
    model = next((each for each in remote if each.startswith("AutoModel")), "AutoModel") if remote else known
    trust = ", trust_remote_code=True" if remote else ""
    reader = _reader(out)
    imports = ", ".join(sorted(filter(None, (model, reader))))
    lines = [f"from transformers import {imports}", ""]
    if plan.recipe.output.format == "adapter":
        base, _, revision = names.base.partition("@")
        base = base if on_hub(names.base) else PLACEHOLDER + BASE
        pinned = f', revision="{revision}"' if revision else ""
        lines = ["from peft import PeftModel", *lines]
        lines += [f'base = {model}.from_pretrained("{base}"{pinned}, dtype="auto"{trust})']
        lines += [f'model = PeftModel.from_pretrained(base, "{_MERGED}")']
    else:
        lines += [f'model = {model}.from_pretrained("{_MERGED}", dtype="auto"{trust})']
    if reader is not None:
        name = "processor" if reader == "AutoProcessor" else "tokenizer"
        lines += [f'{name} = {reader}.from_pretrained("{_MERGED}"{trust})']
    return lines


def _reader(out: Path) -> str | None:
    """Class that reads the inputs of the model, by the files that are there."""
    if any((out / name).exists() for name in ("processor_config.json", "preprocessor_config.json")):
        return "AutoProcessor"
    tokenizers = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
    return "AutoTokenizer" if any((out / name).exists() for name in tokenizers) else None


def _recipe(plan: Plan, inputs: Inputs, names: PublicNames) -> list[str]:
    data = names.recipe(plan, placeholders=True, defaults=False)
    local = [f"`{each}`" for each in _placeholders(data)]
    words = []
    if inputs.base.side_files is None:
        words = ["Saved as `recipe.yaml`, it runs with `optmerge merge recipe.yaml --out merged`."]
    if local:
        words.append(f"Replace {', '.join(local)} by where these models are: they aren't on the hub.")
    return [
        "## Recipe",
        "",
        "```yaml",
        _yaml(data),
        "```",
        "",
        *([" ".join(words), ""] if words else []),
        f"Every tensor's fate and hashes of what the inputs held are in `{PROVENANCE}`.",
        "",
    ]


def _yaml(data: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True).strip()


def _placeholders(recipe: Mapping[str, Any]) -> list[str]:
    refs = [recipe["base"], *(each["model"] for each in recipe["experts"])]
    refs += [recipe["side_files"]["from"]] if "side_files" in recipe else []
    return [each for each in refs if each.startswith(PLACEHOLDER)]


def _model_rows(plan: Plan, names: PublicNames, heads: Mapping[str, Mapping[str, str]]) -> list[str]:
    rows = [f"| {names.base} | base | | {heads[BASE].get('license') or 'not stated'} |"]
    for name, public, spec in zip(plan.expert_names, names.experts, plan.recipe.experts, strict=True):
        licence = heads[name].get("license") or "not stated"
        rows.append(f"| {public} | expert `{name}` | {spec.weight:g} | {licence} |")
    return rows


def _action_rows(plan: Plan, scales: Sequence[Mapping[str, Any] | None]) -> list[str]:
    counts = Counter((tensor.action, tensor.reason.words, tensor.method_index) for tensor in plan.tensors)
    rows = []
    for (action, reason, index), count in sorted(counts.items(), key=lambda item: -item[1]):
        how = (
            f"merged by {_method_words(plan.methods[index], scales[index])}" if index is not None else action
        )
        rows.append(f"* {count} tensors: {how} ({reason})")
    return rows


def _change_rows(changes: Sequence[Change]) -> list[str]:
    """A table of how far the experts moved, with what the output hasn't of it."""
    if not changes:
        return []
    rows = [
        f"| `{each.expert}` | {each.component} ({', '.join(each.kinds)}) | {percent(each)} "
        f"| {'yes' if each.kept else 'no'} |"
        for each in changes
        if each.kept or each.changed
    ]
    head = ["## What the experts changed", "", "| expert | component | ‖τ‖/‖W₀‖ | in this model |"]
    return [*head, "|---|---|---|---|", *rows, ""]


def _method_words(use: MethodUse | None, chosen: Mapping[str, Any] | None) -> str:
    if use is None:
        return "a copy"
    scale = f"{use.scale:g}" if chosen is None else scale_words(chosen)
    over_depth = f"over depth × {', '.join(f'{factor:g}' for factor in use.depth)}" if use.depth else ""
    parameters = (f"{key} {value}" for key, value in use.all_parameters.items() if value is not None)
    return f"`{use.label}` ({', '.join(filter(None, [f'scale {scale}', over_depth, *parameters]))})"


def _truncation_words(details: Mapping[str, Any]) -> list[str]:
    error = details.get("truncation")
    if error is None:
        return []
    return [f"Relative error of the adapter's truncation, ‖M − M_r‖/‖M‖: {error:.3g}.", ""]


def _folders(inputs: Inputs) -> dict[str, Path | None]:
    folders: dict[str, Path | None] = {BASE: inputs.base.checkpoint.folder}
    return folders | {expert.name: expert.folder for expert in inputs.experts}


def _card_head(folder: Path) -> dict[str, str]:
    """Licence and pipeline tag by a model's card; without what can't be understood. Nobody vouches for it."""
    try:
        card = member(folder, CARD, folder)
        require_regular_file(card)
        with card.open("rb") as file:
            text = file.read(_CARD_BYTES).decode("utf-8", "replace")
        parts = text.split("---", 2)
        head = yaml.load(parts[1], PlainLoader) if text.startswith("---") and len(parts) == 3 else None
    except (OSError, InputError, yaml.YAMLError, ValueError, RecursionError):
        return {}
    found = {key: head.get(key) for key in ("license", "pipeline_tag")} if isinstance(head, dict) else {}
    return {
        key: value
        for key, value in found.items()
        if isinstance(value, str) and value.isprintable() and len(value) <= _LONGEST_VALUE
    }
