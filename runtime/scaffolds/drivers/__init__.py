"""Programs of ours that run in the sandbox and start an agent that is a Python package: one file each, shown there by
itself. They import the agent and the standard library, nothing else of LiveRL.
"""
