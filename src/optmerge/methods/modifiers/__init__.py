"""Modifiers of merging methods: one function around a method per file (`optmerge.methods._modifier`)."""
