"""What the parts of the pipeline share."""
