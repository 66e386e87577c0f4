"""The shared runtime: executes a compiled bundle. Knows nothing of the compiler, the targets or the command line."""
