"""Names of clusters by a language model at any OpenAI-compatible endpoint; nothing is sent without being asked."""
