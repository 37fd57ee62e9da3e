"""Training of sound adapters: a model's own attention to captions teaches what tokens of sounds have to do."""
