"""Collecting activations into a cache."""
