"""CUDA kernels and the code around them, run on a machine without a GPU: tests only."""
