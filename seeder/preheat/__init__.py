"""Pre-distribution: rules, their runs, which node may work when, and what is true on each."""
