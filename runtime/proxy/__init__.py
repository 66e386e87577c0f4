"""The in-process model proxy: agents speak HTTP to it, it speaks token ids to an engine and forgets no token."""
