"""Sounds as a condition: taggers that put what they hear into the prompt, and adapters that give the model tokens."""
