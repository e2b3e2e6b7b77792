"""Search of feature clusters by words of their names and texts, and by key token."""
