"""Running manifests: planning, Ray workers, the driver and the command line."""
