"""Both ways between LiveRL and Harbor (Python >= 3.12, the package ``harbor``): ``plugin.py`` offers our sandboxes to
``harbor run``, ``provider.py`` uses Harbor's environments by name. Importing this package imports neither.
"""
