"""Modalities merged into one model: towers around one language model, composition, and its benchmark."""
