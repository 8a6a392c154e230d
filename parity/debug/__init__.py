"""Views for the questions that people ask when a video looks wrong."""
