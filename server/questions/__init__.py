"""The work of each question, a file a question, and the engine that they share."""
