"""Turns a drawing that looks like pixel art into pixel art: grid, cells, palette, background, sheet. numpy arrays throughout."""
