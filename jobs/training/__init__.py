"""Training of adapters on pictures and captions that manifests, folders and datasets hold."""
