"""Slides: images of any size in, masks and cells out, tile by tile in bounded memory."""
