"""Distillation into an adapter that makes pictures in a few steps without guidance."""
