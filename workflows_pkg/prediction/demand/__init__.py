"""How many slots for runs, or for steps, will be busy in the coming minutes and hours?"""
