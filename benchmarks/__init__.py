"""Side-by-side measurements: ratios within one run, never part of the tests' verdict."""
