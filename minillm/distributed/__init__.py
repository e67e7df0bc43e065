"""Distributed training. Models know nothing about ranks; they are parallelized from outside."""
