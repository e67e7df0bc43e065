"""What a run reads, as examples: documents, passage pairs, text-to-text tasks."""
