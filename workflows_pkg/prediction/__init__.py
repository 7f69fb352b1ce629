"""What will happen: features as of a moment, predictors with intervals, evaluation beside simple rules."""
