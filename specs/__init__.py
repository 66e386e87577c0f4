"""Experiment specs and the Jsonnet library they are built from (``lib/``)."""
