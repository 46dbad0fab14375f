"""The tiny models that the how-to pages ask their readers to give to the tests; loaded by `pytest -p`."""

from __future__ import annotations

from functools import partial

from worlds import models, omni

models._CONFIGS["gpt_neox"] = (
    "GPTNeoXForCausalLM",
    {
        "vocab_size": models.VOCABULARY,
        "hidden_size": models.HIDDEN,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
    },
)
models.TINY["gpt_neox"] = partial(models.build, "gpt_neox")
omni.ENCODERS["vit"] = {"model_type": "vit", **omni._VISION}
