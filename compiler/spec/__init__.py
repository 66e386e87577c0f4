"""Pydantic models of the experiment spec: one file per axis, ``ExperimentSpec`` on top.

None of these files postpones its annotations: pydantic would compile every one of them again, a tenth of the time of a
cold ``liverl compile``.
"""
