"""What the user asks for: a recipe, strict, with every short form spelled out.

A recipe doesn't say whether files are there or fit together; the plan does.
"""

from optmerge.recipe.files import load_recipe, read_recipe_data
from optmerge.recipe.overrides import override
from optmerge.recipe.parsing import parse_recipe
from optmerge.recipe.schema import (
    AUTO,
    BASE,
    Expert,
    Match,
    MethodChoice,
    Output,
    Recipe,
    Rule,
    Select,
    SideFiles,
)

__all__ = [
    "AUTO",
    "BASE",
    "Expert",
    "Match",
    "MethodChoice",
    "Output",
    "Recipe",
    "Rule",
    "Select",
    "SideFiles",
    "load_recipe",
    "override",
    "parse_recipe",
    "read_recipe_data",
]
