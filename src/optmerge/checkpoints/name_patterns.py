"""Regular expressions that come with a model, matched in time linear in the name.

Python's `re` takes exponential time on some patterns, and an adapter may hold any. Pydantic's matcher is
Rust's `regex`, which never does, at the price of look-around and back-references.
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic_core import SchemaError, SchemaValidator, core_schema


def name_pattern(pattern: str) -> Callable[[str], bool]:
    """Whether a name, or its end after a dot, matches; as PEFT looks modules up.

    Raises:
        ValueError: not a regular expression, one with look-around or back-references, or far too large.
    """
    try:
        schema = core_schema.str_schema(pattern=rf"^(.*\.)?({pattern})$", regex_engine="rust-regex")
        return SchemaValidator(schema).isinstance_python
    except SchemaError as problem:
        last_line = str(problem).strip().rpartition("\n")[2].strip()
        raise ValueError(last_line.removeprefix("error: ")) from None
