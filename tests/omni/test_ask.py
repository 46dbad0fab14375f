"""Questions about files, with any chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from optmerge.errors import CheckpointError, InputError
from optmerge.omni import OmniProcessor
from optmerge.omni.ask import answer, load, prompt
from optmerge.omni.compose import compose
from worlds import omni as tiny
from worlds import omni_zoo as zoo

TEXT_TEMPLATE = (
    "{% for m in messages %}{{ '<s> ' + m['content'] + ' </s>' }}{% endfor %}"
    "{% if add_generation_prompt %} answer{% endif %}"
)
PARTS_TEMPLATE = (
    "{% for m in messages %}{% for c in m['content'] | selectattr('type', 'equalto', 'image') %}<image> "
    "{% endfor %}{% for c in m['content'] | selectattr('type', 'equalto', 'text') %}{{ c['text'] }}"
    "{% endfor %}{% endfor %} answer"
)


def processor(template: str | None) -> OmniProcessor:
    words = tiny.tokenizer()
    words.chat_template = template
    return OmniProcessor.from_config(tiny.config("clip", "whisper"), words)


def test_items_go_before_the_question_or_where_it_says() -> None:
    plain = processor(None)
    assert prompt(plain, "what ?", {"image": 2, "audio": 1}) == ("<image>\n<image>\n<audio>\nwhat ?", False)
    assert prompt(plain, "what <audio> ?", {"audio": 1}) == ("what <audio> ?", False)


def test_templates_of_text_and_of_parts_both_hold_the_question() -> None:
    text, chatted = prompt(processor(TEXT_TEMPLATE), "what ?", {"audio": 1})
    assert (text, chatted) == ("<s> <audio>\nwhat ? </s> answer", True)
    text, chatted = prompt(processor(PARTS_TEMPLATE), "what ?", {"image": 2})
    assert (text, chatted) == ("<image> <image> what ? answer", True)


def test_what_a_template_has_no_part_for_is_written_out() -> None:
    text, _ = prompt(processor(PARTS_TEMPLATE), "what ?", {"image": 1, "audio": 1})
    assert text == "<image>\n<audio>\nwhat ? answer"
    text, _ = prompt(processor(PARTS_TEMPLATE), "is <audio> in <image> ?", {"image": 1, "audio": 1})
    assert text == "is <audio> in <image> ? answer"


def test_marks_around_an_item_are_the_template_s_business() -> None:
    marked = PARTS_TEMPLATE.replace("<image> ", "<s><image></s> ")
    text, _ = prompt(processor(marked), "what ?", {"image": 1})
    assert text == "<s><image></s> what ? answer"


def test_a_template_that_drops_the_question_is_refused() -> None:
    for template in ("nothing", "{{ messages[0]['role'] }}", "{{ 1 / 0 }}", "{{ nowhere() }}"):
        with pytest.raises(CheckpointError, match="doesn't hold"):
            prompt(processor(template), "what ?", {"audio": 1})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    llm = zoo.base(folder / "llm")
    experts = [zoo.adapted(llm, folder / kind, kind, seed=n) for n, kind in enumerate(("clip", "whisper"), 1)]
    asked: dict[str, Any] = {
        "base": str(llm),
        "experts": [str(each) for each in experts],
        "method": "optmerge",
    }
    compose(asked, folder / "dense")
    compose({**asked, "output": "adapter"}, folder / "split")
    compose({**asked, "method": "damc"}, folder / "damc")
    tiny.picture().save(folder / "a.png")
    tiny.write_wave(folder / "a.wav", tiny.sound())
    return folder


def test_every_form_of_a_composition_can_be_asked(home: Path) -> None:
    items = {"image": [home / "a.png"], "audio": [home / "a.wav"]}
    told = {
        form: answer(load(home / form), "what is this ?", items, longest=12)
        for form in ("dense", "split/adapter", "split/base", "damc")
    }
    assert all(told.values())
    assert told["dense"] == told["split/adapter"]


def test_another_kind_of_model_is_refused(home: Path) -> None:
    with pytest.raises(InputError, match=r"not an omni model[\s\S]*optmerge ask"):
        load(home / "llm")


def test_a_modality_it_lacks_is_refused(home: Path) -> None:
    with pytest.raises(InputError, match="takes no video"):
        answer(load(home / "dense"), "what ?", {"video": [home / "a.mp4"]})
