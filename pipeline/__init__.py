"""The model: Wan2.2 made to paint single frames. No ray, no pyarrow."""
