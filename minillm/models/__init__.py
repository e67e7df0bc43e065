"""GPT, BERT and T5, built from the stacks of `nn`."""
