"""Questions and answers, a file each: the query, its rules, its batch, and both on the wire."""
