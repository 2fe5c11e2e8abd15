"""How fast exported models are on this machine."""
