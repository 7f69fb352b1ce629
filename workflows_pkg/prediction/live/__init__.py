"""Which predictors answer about the next runs, and what of their answers is told?"""
