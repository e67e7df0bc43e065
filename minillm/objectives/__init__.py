"""Training objectives. Each makes its batches and computes its loss; models never see labels."""
