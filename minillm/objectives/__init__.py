"""What to predict: each objective makes the batch and the loss; no model ever sees a label."""
