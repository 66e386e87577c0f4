"""Tasks from real code: verified bugs injected into a repository or into published source distributions.

The parts: ``sources`` (files and pins), ``survey`` (what the pristine tests do), ``mutators`` and ``mutate`` (wrong
versions), ``probe`` and ``prober`` (test runs in a sandbox), ``inject`` (which mutants are bugs), ``package_tasks``
(task directories).
"""
