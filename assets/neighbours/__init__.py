"""The workflows' real neighbours, each a process of its own: a weather service that limits its clients, a backup, a receiver."""
