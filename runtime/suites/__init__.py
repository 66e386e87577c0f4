"""Test runners of other languages than Python's pytest: how each is started, and how what it writes is read.

A table of plain data and pure functions. It knows neither tasks nor sandboxes; ``grading/suite_verifier.py`` runs them.
"""
