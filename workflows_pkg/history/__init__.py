"""What happened: records of runs, attempts, forecasts and suggestions in DuckDB, open to every reader while they grow."""
