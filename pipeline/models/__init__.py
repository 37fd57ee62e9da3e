"""The modules of Wan, written for one frame."""
