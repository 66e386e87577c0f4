"""LiveRL's tests. A package, because verl 0.9.1 installs one of the same name."""
