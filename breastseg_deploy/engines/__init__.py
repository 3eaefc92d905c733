"""TensorRT and TensorRT-RTX engines: built from the bundle's float16 network, kept, and trusted only by their hash.

Modules are imported by name; TensorRT itself is loaded by `flavour.load` alone, when an engine is built or run.
"""
