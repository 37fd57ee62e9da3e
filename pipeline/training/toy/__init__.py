"""How the small model was trained."""
