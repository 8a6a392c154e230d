"""Proof that the harness can fail: a catalogue of faults, planted one at a time."""
