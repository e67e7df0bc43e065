"""What makes a trained model cheap to run: the form of its products by measurement, weights of 8 and 4 bits."""
