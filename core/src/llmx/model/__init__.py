"""The eager model: plain-data parameters, and the decoder built from them with torch."""
