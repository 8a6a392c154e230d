"""Views of a run, each made from its results alone."""
