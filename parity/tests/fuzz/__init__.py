"""Changed files and command lines, thousands of them, each read by what reads it: ``python -m parity.tests.fuzz``."""
