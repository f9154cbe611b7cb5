"""Files, downloads, threads, progress bars and provenance."""
