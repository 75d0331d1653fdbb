"""Models in other hands: exported, published, served."""
