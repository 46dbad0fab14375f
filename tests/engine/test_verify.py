"""`verify` believes an output only as far as its files bear it out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import optmerge
from optmerge.cli import run
from optmerge.engine.verify import checks
from optmerge.engine.verify.checks import Verification, verify
from optmerge.engine.verify.transformers_load import Outcome
from optmerge.errors import InputError
from worlds.merges import CONFIG, NORM, QUERY, UP, Tensors, World, load, save_adapter, world
from worlds.models import TINY


@pytest.fixture
def models(tmp_path: Path) -> World:
    models = world(tmp_path)
    optmerge.merge(models.recipe(), models.out)
    return models


def rewrite(models: World, **tensors: torch.Tensor | None) -> None:
    """Changes tensors of the output; None removes one."""
    found: Tensors = load(models.out)
    for name, tensor in tensors.items():
        if tensor is None:
            del found[name]
        else:
            found[name] = tensor
    save_file(found, models.out / "model.safetensors", {"format": "pt"})


def outcome(found: Verification) -> dict[str, bool | None]:
    return {check.name: check.ok for check in found.checks}


def test_an_untouched_output_passes(models: World) -> None:
    found = verify(models.out, load=False)

    assert found.ok
    assert outcome(found) == {"coverage": True, "finite": True, "deltas": True, "load": None}
    assert found.delta_norms["language"] > 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_fails(models: World, value: float) -> None:
    broken = load(models.out)[NORM]
    broken[-1] = value
    rewrite(models, **{NORM: broken})
    found = verify(models.out, load=False)

    assert not found.ok and outcome(found)["finite"] is False


def test_a_missing_tensor_fails(models: World) -> None:
    rewrite(models, **{UP: None})
    found = verify(models.out, load=False)

    assert outcome(found)["coverage"] is False
    assert UP in next(check.detail for check in found.checks if check.name == "coverage")


def test_a_tensor_nobody_planned_fails(models: World) -> None:
    rewrite(models, stray=torch.ones(2))

    assert outcome(verify(models.out, load=False))["coverage"] is False


def test_a_copied_tensor_that_was_changed_fails(models: World) -> None:
    changed = load(models.out)[NORM]
    changed[0] += 1e-6
    rewrite(models, **{NORM: changed})
    found = verify(models.out, load=False)

    assert outcome(found)["deltas"] is False
    assert NORM in next(check.detail for check in found.checks if check.name == "deltas")


def test_a_copied_tensor_of_another_type_passes_when_it_was_asked_for(tmp_path: Path) -> None:
    models = world(tmp_path)
    optmerge.merge(models.recipe(dtype="bfloat16"), models.out)

    assert verify(models.out, load=False).ok


def test_a_tensor_of_another_shape_fails(models: World) -> None:
    rewrite(models, **{QUERY: torch.ones(3, 3)})

    assert outcome(verify(models.out, load=False))["deltas"] is False


def test_an_unfinished_merge_is_refused(models: World, capsys: pytest.CaptureFixture[str]) -> None:
    (models.out / ".optmerge" / "staging").mkdir(parents=True)

    assert run(["verify", str(models.out)]) == 2
    assert "--resume" in capsys.readouterr().err


def test_what_is_no_checkpoint_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", str(tmp_path)]) == 2
    assert run(["verify", str(tmp_path / "nothing")]) == 2
    assert "no such checkpoint" in capsys.readouterr().err


def test_a_base_that_is_gone_leaves_deltas_unchecked(models: World) -> None:
    models.base.rename(models.root / "moved")

    assert outcome(verify(models.out, load=False))["deltas"] is None
    assert outcome(verify(models.out, base=models.root / "moved", load=False))["deltas"] is True


def test_a_base_given_by_hand_that_is_not_there_is_refused(models: World) -> None:
    with pytest.raises(InputError, match="no such checkpoint"):
        verify(models.out, base=models.root / "typo", load=False)


def test_remote_code_is_never_run(models: World) -> None:
    config = {**CONFIG, "auto_map": {"AutoModelForCausalLM": "modeling.Model"}, "architectures": ["Model"]}
    (models.out / "config.json").write_text(json.dumps(config))
    (models.out / "modeling.py").write_text("raise SystemExit('remote code was run')")

    assert outcome(verify(models.out))["load"] is None


def test_an_adapter_is_held_against_its_base(tmp_path: Path) -> None:
    models = world(tmp_path, experts=0)
    experts = [str(save_adapter(tmp_path / f"a{seed}", seed=seed)) for seed in (0, 1)]
    optmerge.merge(models.recipe(experts=experts, output="adapter"), models.out)

    assert outcome(verify(models.out, load=False)) == {"finite": True, "fits the base": True}


def test_an_adapter_for_another_base_fails(tmp_path: Path) -> None:
    models = world(tmp_path, experts=0)
    adapter = save_adapter(tmp_path / "a", (QUERY,), base={QUERY: torch.zeros(9, 9)})

    assert outcome(verify(adapter, base=models.base, load=False))["fits the base"] is False


# --- through transformers


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    model = TINY["llama"]()
    model.save_pretrained(folder / "base")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
    model.save_pretrained(folder / "e0")
    return folder


@pytest.fixture
def merged(llama: Path, tmp_path: Path) -> Path:
    recipe = {"base": str(llama / "base"), "experts": [str(llama / "e0")], "method": "task_arithmetic"}
    return optmerge.merge(recipe, tmp_path / "out").path


def test_a_real_model_loads_and_generates(merged: Path) -> None:
    found = verify(merged)

    assert found.ok, found.checks
    assert outcome(found) == dict.fromkeys(("coverage", "finite", "deltas", "load", "ties", "generate"), True)


def test_without_transformers_the_load_is_skipped_and_the_rest_checked(
    merged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    found = verify(merged)
    assert found.ok and outcome(found) == {
        **dict.fromkeys(("coverage", "finite", "deltas"), True),
        "load": None,
    }
    assert "pip install 'optmerge[verify]'" in found.checks[-1].detail


@pytest.mark.parametrize("who", ["both", "merged", "nobody to compare"])
def test_a_generation_that_fails_for_the_base_too_is_not_the_merges_fault(
    who: str, merged: Path, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def fail(model: object, *_: object) -> Outcome:
        asked.append("")
        if who == "merged" and len(asked) > 1:
            return None, True, "tokens [1]"
        raise TypeError("forward() missing 1 required positional argument: 'pixel_values'")

    monkeypatch.setattr(checks, "smoke_generation", fail)
    if who == "nobody to compare":
        (merged / "optmerge.json").unlink()
    found = verify(merged, base=None if who == "nobody to compare" else llama / "base")
    check = next(each for each in found.checks if each.name == "generate")

    assert check.ok is (False if who == "merged" else None)
    assert len(asked) == (1 if who == "nobody to compare" else 2)


def test_a_class_that_gives_no_loading_info_is_loaded_all_the_same(
    merged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    whole = transformers.LlamaForCausalLM.from_pretrained

    def from_pretrained(path: Path, **options: object) -> object:
        model: Any = whole(path, **options)
        return getattr(model, "speakers", model)

    monkeypatch.setattr(transformers.LlamaForCausalLM, "from_pretrained", from_pretrained)

    assert outcome(verify(merged))["load"] is True


@pytest.mark.parametrize("fault", ["missing", "unexpected", "reshaped"])
def test_a_model_that_transformers_would_patch_up_fails(merged: Path, fault: str) -> None:
    name = "model.layers.0.self_attn.q_proj.weight"
    tensors = load(merged)
    if fault == "missing":
        del tensors[name]
    elif fault == "unexpected":
        tensors["model.layers.0.stray.weight"] = torch.ones(2)
    else:
        tensors[name] = torch.ones(3, 3)
    save_file(tensors, merged / "model.safetensors", {"format": "pt"})
    (merged / "optmerge.json").unlink()
    found = verify(merged)

    assert not found.ok and outcome(found)["load"] is False


@pytest.mark.parametrize(("damage", "code"), [(False, 0), (True, 1)])
def test_the_exit_code_tells_whether_a_check_failed(
    merged: Path, damage: bool, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    if damage:
        tensors = load(merged)
        tensors["model.norm.weight"][0] = float("nan")
        save_file(tensors, merged / "model.safetensors", {"format": "pt"})

    assert run(["verify", str(merged), "--json"]) == code
    assert json.loads(capsys.readouterr().out)["ok"] is (not damage)
    assert run(["verify", str(merged)]) == code
    assert ("FAILED" in capsys.readouterr().out) is damage
