"""How good are the predictors on what has happened, beside simple rules? Traces, replay, leak check, measures."""
