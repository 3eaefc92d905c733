"""Signatures of bundles in the OpenSSF Model Signing format, made and checked by the library `cryptography` alone."""
