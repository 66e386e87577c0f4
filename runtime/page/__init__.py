"""The page of a run: a server over run directories, the same as static files, and what both show."""
