"""The supervised stage before reinforcement: demonstrations gathered and packed, and verl's SFT trainer on them."""
