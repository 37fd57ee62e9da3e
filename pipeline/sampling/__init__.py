"""Noise schedules, solvers, step caches; no torch."""
