"""What the tiny models must be to learn what they are asked."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer

from optmerge.bench.modalities import clips, models, words
from optmerge.bench.modalities.describe import described
from optmerge.bench.modalities.training import SIZE
from optmerge.bench.modalities.world import MODALITIES
from worlds import modalities as small


def test_what_an_item_holds_is_found_wherever_in_it_that_lies() -> None:
    tokenizer = words.tokenizer()
    longest = max(models.tower_config(modality, SIZE, tokenizer).tokens for modality in MODALITIES)
    model = models.language(small.SIZE, tokenizer, seed=0)
    assert model.config.hidden_size // model.config.num_attention_heads == SIZE.width // SIZE.heads
    angles = longest * model.model.rotary_emb.inv_freq
    assert (angles > 0.5).sum() == 6 and len(angles) == 16


def test_a_saved_language_model_is_read_with_the_tokens_it_learnt(tmp_path: Path) -> None:
    tokenizer = words.tokenizer()
    models.save(models.language(small.SIZE, tokenizer, seed=0), tokenizer, tmp_path)
    _, own = models.load(tmp_path)
    for found in (own, AutoTokenizer.from_pretrained(tmp_path)):
        for modality in MODALITIES:
            text = words.opening([described(clips.content("test", 3), modality)])
            assert words.ids(found, text) == words.ids(tokenizer, text)
