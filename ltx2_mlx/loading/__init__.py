"""Files to modules with weights: names and downloads, headers, what a wrong file is, LoRAs, 8-bit weights."""
