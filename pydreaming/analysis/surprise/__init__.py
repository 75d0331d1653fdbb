"""What a model did not expect, over time, and how far ahead it expects."""
