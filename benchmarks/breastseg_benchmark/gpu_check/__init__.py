"""`breastseg gpu-check`: the first ten minutes on a machine with a GPU, as one JSON object and one page."""
