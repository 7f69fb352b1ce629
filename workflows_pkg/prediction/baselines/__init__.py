"""The simple rules that a predictor has to beat, as predictors themselves: one module per question."""
