"""Reading and checking manifests."""
