"""Lowered programs without their weights, to be filled with other weights of the same shapes."""
