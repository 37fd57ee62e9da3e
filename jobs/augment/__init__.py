"""Growing a dataset: recipes that become manifests, checks of what was made, and whether it pays."""
