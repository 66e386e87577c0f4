"""The wing for two cores: what serves only the small policy and a machine without a GPU.

Production rooms never import it; they reach it by the names in ``runtime/parts.py``.
"""
