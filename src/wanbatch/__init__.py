"""Image datasets from a manifest, made with Wan2.2 used one frame at a time.

The four parts live in the top-level folders `manifests/`, `pipeline/`, `engines/` and `jobs/`
and are imported by their full names: `wanbatch.manifests` and so on.
"""

__version__ = "0.1.0"
