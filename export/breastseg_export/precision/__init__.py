"""Which layers stay in float32, and the float16 graph."""
