"""From rows to units of work; no Ray, no torch."""
