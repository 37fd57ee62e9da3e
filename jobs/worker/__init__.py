"""One pipeline on one device: units in, written attempts out."""
