"""From an agent's work to a verdict, in fresh sandboxes; the agent's own plays no part."""
