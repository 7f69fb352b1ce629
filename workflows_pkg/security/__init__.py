"""Who may do what: what a declarative step is allowed to touch, and how secrets stay secret."""
