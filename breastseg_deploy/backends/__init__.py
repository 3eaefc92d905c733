"""The engines that serve a bundle on a CPU, and the selection among all of them."""
