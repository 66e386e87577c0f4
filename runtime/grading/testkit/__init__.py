"""Test runners that run inside sandboxes: standard library only, importable as a plain folder.

Sandboxes show it at ``/opt/liverl/testkit``. It knows nothing of tasks, rewards or hosts: a folder and test ids in, a
report (plain JSON data, see ``report.py``) out.
"""
