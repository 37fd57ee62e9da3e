"""Finding a model, loading it, deciding how it runs."""
