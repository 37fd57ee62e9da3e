"""What goes in and what comes out: rows, manifests, source images, the output folder. No torch, no ray."""
