"""From a prompt to the two text contexts: tokens, Gemma 3, feature extractor, connectors."""
