"""A package of another author, which adds one of everything that can be added.

`median`, `gpt_neox`, `clock`, `pocket` and `vit` are the examples of the pages in docs/how-to, word for word.
"""
