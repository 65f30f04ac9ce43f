"""Hooks blocks of the user's models while they run."""
