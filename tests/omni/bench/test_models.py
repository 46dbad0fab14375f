"""What the tiny models must be to learn what they are asked."""

from omni.bench import small
from optmerge.omni.bench import models, words
from optmerge.omni.bench.training import SIZE
from optmerge.omni.bench.world import MODALITIES


def test_what_an_item_holds_is_found_wherever_in_it_that_lies():
    tokenizer = words.tokenizer()
    longest = max(models.tower_config(modality, SIZE, tokenizer).tokens for modality in MODALITIES)
    model = models.language(small.SIZE, tokenizer, seed=0)
    assert model.config.hidden_size // model.config.num_attention_heads == SIZE.width // SIZE.heads
    angles = longest * model.model.rotary_emb.inv_freq
    assert (angles > 0.5).sum() == 6 and len(angles) == 16
