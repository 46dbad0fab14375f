"""OptMerge: merge experts fine-tuned from one base into a single multimodal model.

import optmerge

optmerge.plan({"base": "base", "experts": ["ocr", "chart"], "method": "optmerge"})
optmerge.merge({"base": "base", "experts": ["ocr", "chart"], "method": "optmerge"}, "merged")
optmerge.merge_deltas("ties", deltas, keep=0.2)
"""

from typing import TYPE_CHECKING

from optmerge._lazy import lazy

if TYPE_CHECKING:
    from optmerge.engine.merge import Options as Options
    from optmerge.engine.merge import Result as Result
    from optmerge.engine.merge import merge as merge
    from optmerge.engine.merge import plan as plan
    from optmerge.engine.output.folder import Mode as Mode
    from optmerge.engine.plan import Plan as Plan
    from optmerge.engine.verify.checks import Verification as Verification
    from optmerge.engine.verify.checks import verify as verify
    from optmerge.evaluate.routed import RoutedModel as RoutedModel
    from optmerge.methods import merge_deltas as merge_deltas
    from optmerge.recipe import Recipe as Recipe
    from optmerge.recipe import load_recipe as load_recipe

__getattr__, __all__ = lazy(__name__, __file__)
