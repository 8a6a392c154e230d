"""Files to modules with weights: names and downloads, headers, LoRAs, 8-bit weights."""
