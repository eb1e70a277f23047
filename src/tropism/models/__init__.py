"""Models are Hugging Face folders: load, create, save; and what they say of a Batch."""
