"""Frame to network tensor: the Gabor bank, the edge channel, the normalised tensor."""
