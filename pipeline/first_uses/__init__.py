"""What texts and pictures cost when they first come, paid while weights are read."""
