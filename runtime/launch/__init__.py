"""Starting, following and stopping runs: one launcher per target, and the ledger of run directories."""

TRACEBACK_NOTE = "traceback in "
"""Prefix of the note that a launcher adds to an unforeseen exception after writing its traceback to a file of the
run."""
