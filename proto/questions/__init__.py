"""What is asked and answered, a file a question: its query, its rules, its batch, and both on the wire."""
