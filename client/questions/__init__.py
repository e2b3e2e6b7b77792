"""What the client asks and hands out, a file a question: the call, and what its answer becomes."""
