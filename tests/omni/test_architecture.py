"""The engine knows every part of an omni checkpoint."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from optmerge.architectures import resolve
from optmerge.checkpoints.checkpoint import open_checkpoint
from worlds import omni as tiny


def test_every_tensor_of_an_omni_model_has_its_part(tmp_path: Path) -> None:
    model = tiny.model("clip", "whisper", "frames", tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    family = resolve(checkpoint.config, checkpoint.tensors)
    assert family.name == "optmerge_omni" and not family.generic
    assert all(family.canonical(name) == name for name in model.state_dict())
    parts = {name: family.role(name, info.shape).component for name, info in checkpoint.tensors.items()}
    assert set(Counter(parts.values())) == {"language", "projector", "vision", "audio", "video"}
    assert parts["towers.video.projector.layers.0.weight"] == "projector"
    assert parts["towers.video.encoder.embeddings.patch_embedding.weight"] == "video"
    tied = family.tied(checkpoint.config or {})
    assert tied == (("language_model.lm_head.weight", "language_model.model.embed_tokens.weight"),)
