"""What runs in a job: load in 4-bit, attach the adapter, train, save. The only part that imports torch at its top."""
