"""Folders that are ready to be shared on a hub."""
