"""How a training goes, from its settings to its weights: prepare (and start) > loop > resume, batches > plan, run."""
