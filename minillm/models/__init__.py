"""GPT, BERT and T5: three ways to wire the stacks of `nn`."""
