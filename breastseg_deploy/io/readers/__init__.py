"""Readers of slides, one format family a file. `io.open_slide` chooses between them."""
