"""Pre-distribution: the rule an operator writes, and what seeder, agents and commands say to each other about it."""
