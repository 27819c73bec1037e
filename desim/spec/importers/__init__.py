"""Readers of model descriptions in formats of other projects."""
