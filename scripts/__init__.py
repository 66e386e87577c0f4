"""Programs for those who work on LiveRL; not installed."""
