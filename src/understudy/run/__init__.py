"""A run from its description: collect, measure the start, train the arms, measure them, report."""
