"""What the programs in the boxes of `tests/node` play: a file for each kind of story."""
