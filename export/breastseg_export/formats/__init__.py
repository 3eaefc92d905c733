"""What an export writes: one file per format."""
