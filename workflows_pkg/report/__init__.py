"""How does a person see it: tables, plots and pages from history, forecasts and suggestions."""
