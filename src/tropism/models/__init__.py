"""Models are Hugging Face folders: load, create and save them, and compute their predictions for a Batch."""
