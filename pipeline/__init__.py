"""The model: Wan2.2 used to make single frames. No Ray, no PyArrow."""
