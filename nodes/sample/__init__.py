"""Sampling many prompts as one batch."""
