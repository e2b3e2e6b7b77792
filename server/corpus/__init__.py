"""Texts: where documents come from, in which ranges they are read, by whom."""
