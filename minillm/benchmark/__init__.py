"""Compares the speed of minillm with that of its peers, each in its own process, taking turns (`minillm bench`)."""
