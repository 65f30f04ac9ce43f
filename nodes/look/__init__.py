"""Seeing where concepts fire, how strongly, and guarding against them."""
