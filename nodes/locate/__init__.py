"""Finding the blocks at which a concept is decided."""
