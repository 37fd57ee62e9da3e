"""Adapters (LoRA and its kin): reading their files, merging them into a model, holding them for rows."""
