"""A family is found from its config, and nothing is believed that the names contradict."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from optmerge.architectures import COMPONENTS, KINDS, Architecture, Role, _registry, registered, resolve
from optmerge.errors import InputError
from worlds.models import TINY
from worlds.plugins import forget, install
from worlds.saved import Saved

WITHOUT_A_CLASS = {"internvl_chat", "optmerge_omni"}  # the latter has its class here, and tests with it

ORIGINAL_LLAVA = {
    "model.embed_tokens.weight": ((96, 32), Role("language", "embedding")),
    "model.layers.0.self_attn.q_proj.weight": ((32, 32), Role("language", "matrix")),
    "model.layers.0.input_layernorm.weight": ((32,), Role("language", "norm")),
    "model.mm_projector.0.weight": ((32, 16), Role("projector", "matrix")),
    "model.vision_tower.vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias": (
        (24,),
        Role("vision", "bias"),
    ),
    "lm_head.weight": ((96, 32), Role("language", "head")),
}


def test_a_saved_model_is_found_from_its_config(saved: Saved) -> None:
    assert saved.architecture.name == saved.config["model_type"]
    assert not saved.architecture.generic


def test_every_registered_family_is_tested_on_a_real_model() -> None:
    assert set(registered()) - WITHOUT_A_CLASS == set(TINY)


@pytest.mark.parametrize("architecture", registered().values(), ids=lambda each: each.name)
def test_a_declaration_uses_the_published_words(architecture: Architecture) -> None:
    assert not architecture.generic
    assert {component for _, component in architecture.components} <= set(COMPONENTS)
    assert {rule.kind for rule in architecture.kinds} <= set(KINDS)


def test_an_unknown_family_says_that_it_is_a_guess() -> None:
    assert resolve({"model_type": "frobnicator"}, ["model.layers.0.mlp.up_proj.weight"]).generic


def test_names_outweigh_the_config() -> None:
    architecture = resolve({"model_type": "llava"}, ORIGINAL_LLAVA)
    assert architecture.generic
    for name, (shape, role) in ORIGINAL_LLAVA.items():
        assert architecture.role(name, shape) == role


def test_without_a_config_everything_is_other() -> None:
    bare = resolve(None, ORIGINAL_LLAVA)
    assert (bare.name, bare.generic) == ("bare", True)
    for name, (shape, role) in ORIGINAL_LLAVA.items():
        assert bare.role(name, shape) == Role("other", role.kind)
    assert bare.tied({"tie_word_embeddings": True}) == ()


BEYOND_A_GUESS = r"""
    mm_input_projection_weight$          # Gemma 3 and GPT-2 store these (in, out)
  | ^transformer\.h\.\d+\..*\.weight$
  | ^audio_tower\.(proj|audio_bos_eos_token)\.  # a projector by position, not by name
"""


def test_the_guess_is_right_about_all_but_a_few_tensors_of_the_declared_families(saved: Saved) -> None:
    guess = resolve({**saved.config, "model_type": "unheard_of", "architectures": None}, saved.on_disk)
    wrong = [n for n, s in saved.on_disk.items() if guess.role(n, s) != saved.architecture.role(n, s)]
    assert guess.generic
    assert [name for name in wrong if not re.search(BEYOND_A_GUESS, name, re.VERBOSE)] == []


def test_the_guess_ties_what_the_names_allow() -> None:
    names = ["model.embed_tokens.weight", "lm_head.weight"]
    guess = resolve({"model_type": "frobnicator", "tie_word_embeddings": True}, names)
    assert guess.tied({"tie_word_embeddings": True}) == (("lm_head.weight", "model.embed_tokens.weight"),)
    assert guess.tied({"tie_word_embeddings": False}) == ()


def test_neither_torch_nor_transformers_is_imported() -> None:
    code = (
        "import sys; from optmerge.architectures import registered; registered();"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


FAMILY = """
    from optmerge.architectures import Architecture

    ARCHITECTURES = (
        Architecture(
            name="outsider",
            classes=("OutsiderForVision",{more}),
            components=((r"eyes\\.", "vision"), (r"text\\.", "language")),
        ),
    )
"""


@pytest.fixture
def fresh_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch, _registry, "_ARCHITECTURES")


@pytest.mark.usefixtures("fresh_registry")
def test_a_family_of_another_package_is_found_by_its_type_or_its_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["eyes.0.weight", "text.0.weight"]
    assert resolve({"model_type": "outsider"}, names).generic
    forget(monkeypatch, _registry, "_ARCHITECTURES")
    install(monkeypatch, tmp_path, "optmerge.architectures", FAMILY.format(more=""))
    for config in ({"model_type": "outsider"}, {"model_type": "?", "architectures": ["OutsiderForVision"]}):
        family = resolve(config, names)
        assert (family.name, family.generic) == ("outsider", False)
        assert family.role("eyes.0.weight", (4, 4)) == Role("vision", "matrix")
    assert not resolve({"model_type": "qwen2"}, ["model.layers.0.mlp.up_proj.weight"]).generic


@pytest.mark.usefixtures("fresh_registry")
def test_a_class_of_one_of_ours_is_not_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path, "optmerge.architectures", FAMILY.format(more='"InternVLChatModel"'))
    with pytest.raises(InputError, match=r"two architectures declare the class InternVLChatModel"):
        resolve({"architectures": ["InternVLChatModel"]}, ["eyes.0.weight"])


@pytest.mark.usefixtures("fresh_registry")
@pytest.mark.parametrize("source", [None, "raise ValueError('half installed')", "NOTHING = 'declared'"])
def test_a_broken_plug_in_is_named(
    source: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tmp_path, "optmerge.architectures", source)
    with pytest.raises(InputError, match=r"plug-in 'outsider'[\s\S]*uninstall"):
        registered()


GUESSED = {
    "model.layers.0.mlp.up_proj.weight": ("language", "matrix"),
    "model.gated_cross_attn_layers.1.mlp.up_proj.weight": ("language", "matrix"),
    "transformer.blocks.0.attn.qkv.weight": ("language", "matrix"),
    "model.decoder.layers.0.fc1.weight": ("language", "matrix"),
    "model.altup_projections.0.weight": ("language", "matrix"),
    "gpt_neox.embed_in.weight": ("language", "embedding"),
    "model.embed_tokens_per_layer.weight": ("other", "embedding"),
    "model.layers.0.mlp.gate.weight": ("language", "router"),
    "model.layers.0.feed_forward.router.weight": ("language", "router"),
    "model.encoder.layers.0.fc1.weight": ("other", "matrix"),
    "talker.model.layers.0.mlp.up_proj.weight": ("other", "matrix"),
    "token2wav.dit.layers.0.mlp.up_proj.weight": ("other", "matrix"),
    "codec_model.decoder_transformer.layers.0.mlp.fc1.weight": ("other", "matrix"),
    "depth_decoder.model.layers.0.mlp.fc1.weight": ("other", "matrix"),
    "model.diffusion_head.layers.0.ffn.up_proj.weight": ("other", "matrix"),
    "perception.encoder.layers.0.linear.weight": ("other", "matrix"),
    "model.qwen2_model.model.model.layers.0.mlp.up_proj.weight": ("other", "matrix"),
    "language_projection.weight": ("projector", "matrix"),
    "model.vision_adapter.fc1.weight": ("projector", "matrix"),
    "mlp_AR.linear_1.weight": ("projector", "matrix"),
    "query_tokens": ("projector", "other"),
    "model.vision_tower.layers.0.fc1.weight": ("vision", "matrix"),
    "audio_tower.layers.0.fc1.weight": ("audio", "matrix"),
}


@pytest.mark.parametrize("name", GUESSED)
def test_a_guess_takes_nothing_for_language_that_makes_or_reads_something_else(name: str) -> None:
    shape = (1, 4, 8) if name == "query_tokens" else (4, 8)
    role = resolve({"model_type": "frobnicator"}, [name]).role(name, shape)
    assert (role.component, role.kind) == GUESSED[name]


def test_an_encoder_beside_word_embeddings_reads_text() -> None:
    names = ["bert.embeddings.word_embeddings.weight", "bert.encoder.layer.0.attention.self.query.weight"]
    assert resolve({"model_type": "frobnicator"}, names).role(names[1], (4, 4)) == Role("language", "matrix")
    assert resolve({"model_type": "frobnicator"}, names[1:]).role(names[1], (4, 4)) == Role("other", "matrix")
