"""Training of adapters (LoRA) on pictures with captions: a style or a subject."""
