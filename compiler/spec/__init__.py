"""Pydantic models of the experiment spec: one file per axis, ``ExperimentSpec`` on top."""
