"""Which version runs: versions, trials, verdicts, ledger."""
