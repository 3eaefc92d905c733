"""The network and its checkpoint."""
