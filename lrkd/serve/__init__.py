"""A trained student without torch: its export, the scorer that reads it, and the server."""
