"""Packages: a written bundle in the form that other software takes, one file per consumer."""
