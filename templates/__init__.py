"""Jinja2 text of manifests; no logic beyond loops and conditions."""
