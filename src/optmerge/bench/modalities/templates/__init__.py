"""The forms of the questions: those in `single` need one modality, those in `joint` two or all three."""

from optmerge.bench.modalities.templates._template import (
    FAMILIES,
    NEEDS,
    ClipQuestion,
    Family,
    Query,
    Template,
    questions,
    templates,
)

__all__ = ["FAMILIES", "NEEDS", "ClipQuestion", "Family", "Query", "Template", "questions", "templates"]
