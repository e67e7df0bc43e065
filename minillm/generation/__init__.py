"""Text generation: sampling, beam search and filling gaps."""
