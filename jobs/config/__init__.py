"""Settings, presets and what they mean on this machine."""
