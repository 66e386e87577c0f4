"""Launch targets: one module each, turning a plan and its lowered configurations into artifacts."""
