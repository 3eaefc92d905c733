"""Fleets: many processes, on one machine or several, that work through one list of inputs into one folder."""
