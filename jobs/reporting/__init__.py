"""What a run tells: progress, log, summary, contact sheet."""
