"""The text side: a prompt becomes tokens, Gemma's hidden states, features, and the two contexts."""
