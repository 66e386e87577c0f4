"""Sandboxes as containers of a local Docker engine: ``provider.py``; what goes into their images: ``context.py``."""
