"""Sandboxes as containers of a Docker engine, here or over TLS: ``provider.py``; their images: ``context.py``."""
