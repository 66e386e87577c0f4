"""What a run left, read back for people and programs: its trials, one trial, two runs side by side."""
