"""Data sets, augmentation, sampling."""
