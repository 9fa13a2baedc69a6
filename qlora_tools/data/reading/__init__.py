"""Reading: from a file, folder, saved dataset or Hub id to numbered rows, some with a problem instead of a value."""
