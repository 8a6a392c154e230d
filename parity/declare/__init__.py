"""The declarations of what is compared: stages, their taps and their cases."""
