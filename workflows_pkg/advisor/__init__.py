"""What should change: suggestions with evidence and expected effect."""
