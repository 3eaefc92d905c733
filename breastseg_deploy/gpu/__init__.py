"""The path of a frame on an NVIDIA GPU: the kernels, the pipeline around them, and the networks that it runs."""
