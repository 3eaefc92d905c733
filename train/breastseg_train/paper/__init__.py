"""What the paper compares its model with: ablations, baselines, what it rejected."""
