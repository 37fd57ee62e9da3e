"""Choosing steps, sampler and step cache by measuring."""
