"""The networks, as pure functions of their parameters (Flax Linen)."""
