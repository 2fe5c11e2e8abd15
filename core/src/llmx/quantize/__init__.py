"""Quantization while weights stream in, and the account of what became of every weight."""
