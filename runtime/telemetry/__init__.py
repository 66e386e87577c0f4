"""What a run tells about itself: rows of numbers, a live display, and the closing table."""
