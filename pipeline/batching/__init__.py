"""Many rows in a batch of fixed size."""
