"""A segmented slide as files for other programs. Each is read from the rasters piece by piece and written whole."""
