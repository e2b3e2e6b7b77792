"""Feature clusters in the file formats of other tools."""
