"""Erasing and strengthening concepts."""
