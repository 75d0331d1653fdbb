"""What a path holds, before anything is trained on it."""
