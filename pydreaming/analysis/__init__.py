"""What people do with a trained model: embeddings, surprise, dreams, reports."""
