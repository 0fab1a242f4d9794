"""How a run of the FitCLIP kit is done and kept: its store, weights, engine and slider."""
