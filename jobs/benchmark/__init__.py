"""This runtime against diffusers."""
