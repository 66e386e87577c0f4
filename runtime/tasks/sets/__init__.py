"""Published sets of tasks by name: from their rows to directories in Harbor's format."""
