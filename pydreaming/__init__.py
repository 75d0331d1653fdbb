"""A world model of sound, learned from unlabelled audio by contrastive prediction."""
