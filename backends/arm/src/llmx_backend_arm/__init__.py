"""Arm's NPUs: the backends ``ethosu``, ``tosa`` and ``vgf``, which lower by way of TOSA."""
