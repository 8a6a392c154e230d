"""The loop over cells: record the reference, run ours on what was recorded, judge."""
