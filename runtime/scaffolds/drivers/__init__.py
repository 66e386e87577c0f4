"""Programs that run in a sandbox, on a Python of their agent's own, and drive a published agent that is a library.

They import the agent and the standard library, nothing of ours but each other.
"""
