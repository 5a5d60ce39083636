"""The teacher: an LLM that learns to reason from several perspectives."""
