"""From a file to a module with its weights: names and downloads, headers, LoRAs, 8-bit weights."""
