"""Processes that have done their imports before somebody needs them.

The start of a trainer is one import after the other; vLLM's engine begins with its own when the trainer's model is
ready. Here they are done beside all that comes before: ``pool`` starts processes that import what one kind of process
will need, and wait (``waiting``); who would spawn such a process spawns ``claim`` instead (``spawned``), which hands
arguments, environment and files over to a waiting one, or becomes what was asked for where none waits. So nothing
depends on them but time.

Nothing is forked: a process that has imported torch, grpc and vLLM has threads, and a fork of it has not. Workers of
Ray are not had this way: Ray reads their job from the environment when it is imported, and never again.
"""
