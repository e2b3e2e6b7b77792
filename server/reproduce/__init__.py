"""The paper's claim on one model, from a corpus to a report."""
