"""What a form declares, what every form asks of a model, and the registry of forms."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from optmerge.errors import InputError
from optmerge.omni.config import TowerConfig
from optmerge.omni.processor import OmniProcessor
from optmerge.registry import Registry

LANGUAGES = ("llama", "mistral", "qwen2", "qwen3")
"""`model_type`s of language models that are a decoder and a linear head, and nothing more."""

WAY_OUT = "leave --as out: the omni model carries its code and loads everywhere"


@dataclass(frozen=True)
class Form:
    """A class of transformers with one tower, and how a model's parts are called there.

    Args:
        name: `model_type` of the class, which is the name of the form's file.
        model_class: name of the class.
        modality: modality of its tower.
        encoder: prefix of the encoder's tensors in a checkpoint.
        projector: prefixes of the projector's linear layers, in order.
        ties: whether the class can tie head and embedding.
        check: refuses a tower that the class can't express; raises InputError, see `misfit`.
        config: (configuration of the language model, tower) → configuration of the class.
        processor: (omni processor) → the class's processor.
    """

    name: str
    model_class: str
    modality: str
    encoder: str
    projector: tuple[str, ...]
    ties: bool
    check: Callable[[TowerConfig], None]
    config: Callable[[Any, TowerConfig], Any]
    processor: Callable[[OmniProcessor], Any]

    def renamed(self, name: str) -> str:
        """Name in the form's checkpoint of a tensor of an omni model."""
        moves = {f"towers.{self.modality}.encoder.": f"{self.encoder}."}
        for number, place in enumerate(self.projector):
            moves[f"towers.{self.modality}.projector.layers.{number}."] = f"{place}."
        for start, place in moves.items():
            if name.startswith(start):
                return place + name.removeprefix(start)
        return name

    def misfit(self, what: str, got: object, expected: object) -> InputError:
        """The error that a part of a model isn't what the class has."""
        return InputError(
            f"the model can't be written as {self.model_class}: {what}",
            where=f"--as {self.name}",
            got=got,
            expected=expected,
            hint=WAY_OUT,
        )


def check_form(
    form: Form, text_config: Any, language: Iterable[str], towers: Mapping[str, TowerConfig]
) -> None:
    """Refuses a model that the form's class can't express.

    Args:
        form: the form.
        text_config: configuration of the language model.
        language: names of the language model's tensors, as an omni model has them.
        towers: modality → tower.

    Raises:
        InputError: the model has other towers, another projector, another selection of the encoder's states,
            a language model of another kind, or a placeholder outside of the vocabulary.
    """
    if list(towers) != [form.modality]:
        raise form.misfit("it has other towers", ", ".join(towers), f"one tower, for {form.modality}")
    tower = towers[form.modality]
    if set(tower.pooling or ()) - {1}:
        raise form.misfit("its tower averages neighbours", f"pooling {tower.pooling}", "pooling of ones")
    if tower.projector_depth != len(form.projector):
        depth = f"{len(form.projector)} linear layer{'s' if len(form.projector) > 1 else ''}"
        raise form.misfit("its projector is another", f"projector_depth {tower.projector_depth}", depth)
    form.check(tower)
    known = ("language_model.model.", "language_model.lm_head.weight")
    strange = next((name for name in language if not name.startswith(known)), None)
    if text_config.model_type not in LANGUAGES or strange:
        got = strange or text_config.model_type
        raise form.misfit("its language model is of another kind", got, ", ".join(LANGUAGES))
    if text_config.tie_word_embeddings and not form.ties:
        raise form.misfit("its head is its embedding", "tie_word_embeddings: true", "a head of its own")
    if not 0 <= tower.token_id < text_config.vocab_size:
        raise form.misfit(
            f"{tower.token} has no embedding, which the class looks up",
            f"token_id {tower.token_id}",
            f"less than vocab_size {text_config.vocab_size}",
        )


def padding_left(tokenizer: Any) -> Any:
    """A copy of a tokenizer that pads as an omni processor does: on the left, with end of text if need be."""
    found = copy.deepcopy(tokenizer)
    found.padding_side = found.init_kwargs["padding_side"] = "left"  # the latter is what is saved
    if found.pad_token is None:
        found.pad_token = found.eos_token
    return found


def _declared(module: ModuleType) -> list[tuple[str, Form]]:
    return [(module.FORM.name, module.FORM)]


_FORMS = Registry("form", "optmerge.omni.forms", "optmerge.forms", collect=_declared)


def forms() -> Mapping[str, Form]:
    """Every form by name, in alphabetical order.

    Raises:
        InputError: a plug-in can't be loaded.
    """
    return _FORMS.all()


def form(name: str) -> Form:
    """The form of that name.

    Raises:
        InputError: there is none, or a plug-in can't be loaded.
    """
    return _FORMS.get(name)
