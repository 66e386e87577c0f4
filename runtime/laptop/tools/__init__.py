"""The tool set ``repair``: structured repairs for a small policy. Programs for inside a box: standard library alone."""
