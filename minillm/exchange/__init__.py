"""Import and export of published formats: Hugging Face folders and GGUF."""
