"""The former name of ``runtime.sandboxes``, kept for parts that others have written."""
