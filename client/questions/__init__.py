"""Questions of the client, a file each: the call, and what its answer becomes."""
