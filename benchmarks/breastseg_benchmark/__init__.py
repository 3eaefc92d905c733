"""Measuring bundles: speed by stages, latency, memory and growth, against budgets; without PyTorch."""
