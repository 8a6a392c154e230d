"""What is compared: stages, their taps and their cases."""
