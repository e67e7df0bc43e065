"""All that knows ranks; it acts from outside on a finished single-device model."""
