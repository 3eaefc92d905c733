"""Training of the breast-cell segmentation model (PyTorch). Modules are imported by name; this file stays light."""
