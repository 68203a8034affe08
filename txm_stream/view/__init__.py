"""The live page: a thin, read-only server in front of Tiled, and the page it serves."""
