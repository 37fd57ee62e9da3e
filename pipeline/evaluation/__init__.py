"""Pictures against references, and the arithmetic they cost."""
