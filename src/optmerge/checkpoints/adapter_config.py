"""adapter_config.json of a PEFT LoRA adapter: its scales and ranks, and the settings that are refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any, TypeVar

from pydantic_core import SchemaError, SchemaValidator, core_schema

from optmerge.checkpoints.hub import locate, looks_like_hub_id
from optmerge.checkpoints.json_files import read_object
from optmerge.errors import AdapterError, CheckpointError

# Settings under which the adapter isn't just weights added to the base's weights.
_REFUSED = {
    "trainable_token_indices": "single trained token rows (trainable_token_indices)",
    "layer_replication": "replicated layers",
    "alora_invocation_tokens": "aLoRA, which is active only after its invocation tokens",
    "arrow_config": "Arrow routing",
    "use_qalora": "QALoRA",
    "use_bdlora": "block-diagonal LoRA",
    "kasa_config": "KaSA",
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA",
    "megatron_config": "Megatron-parallel layers",
}

# Initialisations that also change the base weights when PEFT loads the adapter.
_REFUSED_INIT = re.compile(r"pissa.*|olora|corda|loftq|lora_ga", re.IGNORECASE)

_T = TypeVar("_T", int, float)
Patterns = Sequence[tuple[Callable[[str], bool], _T]]
"""(whether it matches a module's name, value) pairs; the first match counts."""

CONVERT = (
    "load it with PEFT, merge_and_unload(), save_pretrained(), and give the full checkpoint as the expert"
)


@dataclass(frozen=True)
class LoraSettings:
    """The settings of a LoRA configuration that decide the weights.

    Args:
        rank: r where no pattern matches.
        alpha: lora_alpha where no pattern matches.
        rank_pattern: r of modules by name.
        alpha_pattern: lora_alpha of modules by name.
        rslora: scale by α/√r instead of α/r.
        dora: magnitude vectors are expected.
        fan_in_fan_out: targeted linear weights are stored (inputs, outputs).
        parameters: endings of the names of parameters that are adapted without their module
            (`target_parameters`), sorted.
        is_module: whether a module, by name, is adapted as a whole (`target_modules`).
    """

    rank: int
    alpha: float
    rank_pattern: Patterns[int]
    alpha_pattern: Patterns[float]
    rslora: bool
    dora: bool
    fan_in_fan_out: bool
    parameters: tuple[str, ...]
    is_module: Callable[[str], bool]

    def rank_of(self, module: str) -> int:
        """Rank of the factors of a module, or of a parameter adapted by itself, by its name in the model."""
        return _lookup(self.rank_pattern, module, self.rank)

    def scaling_of(self, module: str) -> float:
        """Factor on up · down, by the name that `rank_of` takes: α/r, or α/√r with rslora."""
        rank, alpha = self.rank_of(module), _lookup(self.alpha_pattern, module, self.alpha)
        return alpha / sqrt(rank) if self.rslora else alpha / rank


def _lookup(patterns: Patterns[_T], module: str, default: _T) -> _T:
    return next((value for matches, value in patterns if matches(module)), default)


def read_adapter_config(folder: Path) -> tuple[dict[str, Any], LoraSettings]:
    """Read and check the configuration of an adapter folder.

    Returns:
        The configuration as it stands in the file, and the settings read from it.

    Raises:
        AdapterError: missing or malformed, another kind of adapter than LoRA, or a setting that can't be
            expressed as weights added to the base's.
    """
    path = folder / "adapter_config.json"
    config = read_object(path, "adapter config", AdapterError)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise AdapterError(
            "only LoRA adapters can be merged", where=path, got=f"peft_type {kind}", hint=CONVERT
        )
    for key, what in _REFUSED.items():
        if config.get(key):
            raise AdapterError(
                f"the adapter uses {what}, which isn't supported", where=path, got=key, hint=CONVERT
            )
    init = config.get("init_lora_weights")
    if isinstance(init, str) and _REFUSED_INIT.fullmatch(init):
        hint = "convert it: PEFT's save_pretrained with path_initial_model_for_weight_conversion"
        got = f"init_lora_weights: {init}"
        raise AdapterError(
            "the adapter belongs to a changed base, not the base", where=path, got=got, hint=hint
        )
    return config, _settings(path, config)


def locate_base(folder: Path, config: Mapping[str, Any]) -> Path:
    """The model that an adapter was trained on: a path from the adapter's folder or from here, or a hub id.

    Args:
        folder: folder of the adapter.
        config: content of its `adapter_config.json`.

    Raises:
        AdapterError: the configuration names none.
        CheckpointError: the model isn't there.
        RunError: the hub can't be reached.
    """
    path, name = folder / "adapter_config.json", config.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise AdapterError(
            "the adapter doesn't name its base",
            where=path,
            expected="base_model_name_or_path",
            hint="write there the folder or hub id of the model that the adapter was trained on",
        )
    beside = folder / name
    if beside.is_dir():
        return beside
    try:
        return locate(name)
    except CheckpointError as problem:
        hint = problem.hint if looks_like_hub_id(name) else "correct base_model_name_or_path there"
        raise CheckpointError(
            "the adapter's base isn't there", where=path, got=f"{name} ({problem.what})", hint=hint
        ) from problem


def _settings(path: Path, config: dict[str, Any]) -> LoraSettings:
    parameters = _names(path, "target_parameters", config.get("target_parameters"))
    return LoraSettings(
        rank=_number(path, "r", config.get("r", 8), integral=True),
        alpha=_number(path, "lora_alpha", config.get("lora_alpha", 8)),
        rank_pattern=_patterns(path, "rank_pattern", config.get("rank_pattern"), integral=True),
        alpha_pattern=_patterns(path, "alpha_pattern", config.get("alpha_pattern")),
        rslora=_flag(path, config, "use_rslora"),
        dora=_flag(path, config, "use_dora"),
        fan_in_fan_out=_flag(path, config, "fan_in_fan_out"),
        parameters=parameters,
        is_module=_module_test(path, config.get("target_modules")) if parameters else _every_module,
    )


def _number(path: Path, key: str, value: Any, *, integral: bool = False) -> Any:
    kinds = int if integral else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not int(integral) <= abs(value) < 2**31:
        expected = "an integer > 0" if integral else "a number"
        raise AdapterError(f"{key} is wrong", where=path, got=value, expected=expected)
    return value


def _patterns(path: Path, key: str, value: Any, *, integral: bool = False) -> Patterns[Any]:
    if value is not None and not isinstance(value, dict):
        raise AdapterError(f"{key} is wrong", where=path, got=type(value).__name__, expected="an object")
    found = []
    for pattern, number in (value or {}).items():
        _number(path, f"{key}[{pattern[:200]}]", number, integral=integral)
        try:
            found.append((name_pattern(pattern), number))
        except ValueError as problem:
            raise AdapterError(
                f"{key} holds a pattern that can't be used",
                where=path,
                got=f"{pattern[:200]}: {problem}",
                expected="a regular expression without look-around or back-references",
                hint=CONVERT,
            ) from None
    return found


def _names(path: Path, key: str, value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise AdapterError(f"{key} is wrong", where=path, got=str(value)[:200], expected="a list of names")
    return tuple(sorted(value))


def _every_module(module: str) -> bool:
    return True


def _module_test(path: Path, value: Any) -> Callable[[str], bool]:
    """Whether `target_modules` names a module: a list of endings, or one regular expression."""
    if isinstance(value, str):
        try:
            return name_pattern(value)
        except ValueError:
            return lambda module: False
    endings = _names(path, "target_modules", value)
    return lambda module: any(module == each or module.endswith(f".{each}") for each in endings)


def _flag(path: Path, config: dict[str, Any], key: str) -> bool:
    value = config.get(key)
    if value is not None and not isinstance(value, bool):
        raise AdapterError(f"{key} is wrong", where=path, got=value, expected="true or false")
    return bool(value)


def name_pattern(pattern: str) -> Callable[[str], bool]:
    """Test of module names by a regular expression that comes with a model, in time linear in the name.

    Python's `re` takes exponential time on some patterns, and an adapter may hold any. Pydantic's matcher is
    Rust's `regex`, which never does, at the price of look-around and back-references.

    Args:
        pattern: matched against the whole name or its end after a dot, as PEFT looks modules up.

    Returns:
        A function of a module's name: whether the pattern matches it.

    Raises:
        ValueError: not a regular expression, one with look-around or back-references, or far too large.
    """
    try:
        schema = core_schema.str_schema(pattern=rf"^(.*\.)?({pattern})$", regex_engine="rust-regex")
        return SchemaValidator(schema).isinstance_python
    except SchemaError as problem:
        last_line = str(problem).strip().rpartition("\n")[2].strip()
        raise ValueError(last_line.removeprefix("error: ")) from None
