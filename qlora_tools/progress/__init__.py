"""What a run tells while it goes: metrics on disk, pace and remaining time, curves, and what is noticed in them."""
