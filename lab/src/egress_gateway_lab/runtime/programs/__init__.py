"""Programs of the built-in images that the host does not have. Standard library only."""
