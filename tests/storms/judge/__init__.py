"""Who watches a storm, packet by packet, and what has to be true after it."""
