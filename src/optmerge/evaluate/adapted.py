"""Models with adapters of PEFT on them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from optmerge.errors import InputError


def with_adapter(model: Any, folder: Path, name: str = "default") -> Any:
    """PEFT's model around a model of transformers, which it changes in place.

    Args:
        model: of transformers.
        folder: of the adapter.
        name: what PEFT calls the adapter.

    Raises:
        InputError: PEFT isn't installed.
    """
    try:
        from peft import PeftModel
    except ImportError:
        raise InputError("peft isn't installed", hint="pip install 'optmerge[ask]'") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by an older name
        return PeftModel.from_pretrained(model, str(folder), adapter_name=name)
