"""`wanbatch doctor`: whether this machine, an output folder and a model are ready for a run."""
