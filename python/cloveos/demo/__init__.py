"""The demonstration `clove demo drug-discovery`: real experiments, with and without CloveOS."""
