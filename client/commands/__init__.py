"""The `polysem` command: its options, and a file a group of commands."""
