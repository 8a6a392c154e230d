"""What was reported of the released 19B, block by block: the model's own, and no fault where a run shows the same."""

from __future__ import annotations

# Block → lowest and highest std of the video stream after it.
STREAM_STD = {0: (3.0, 3.0), 23: (6.6, 6.6), 47: (66.0, 425.0)}
STD_IN_WORDS = "std 1 → 3 (block 0) → 6.6 (23) → 66–425 (47)"
# Block → text cross-attention as a share of the stream before it; correlation of two prompts' streams after it.
TEXT_SHARE = {0: 1.69, 47: 0.005}
LIKENESS = {0: 0.96, 32: 0.67, 47: 0.99}
DEPTH = 48  # blocks of the model that this was reported of
