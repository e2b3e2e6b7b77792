"""An index on disk: its format, its arrays and contexts."""
