"""The templates of example_workflows: `make templates` writes them and their thumbnails anew."""
