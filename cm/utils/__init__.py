"""Files, downloads, pickles, threads, progress bars and provenance: what has nothing to do with the science."""
