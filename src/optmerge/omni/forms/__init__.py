"""Classes of transformers that an omni model with one tower can be written as, without code of its own.

A form is one file in this package that declares `FORM`; nothing else needs touching. Another package adds
forms by entry points in the group `optmerge.forms`, each naming a module that declares `FORM`.
"""

from optmerge.omni.forms._form import Form, check_form, form, forms

__all__ = ["Form", "check_form", "form", "forms"]
