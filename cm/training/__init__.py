"""Training, the same for every method. Nothing in this package knows a method, a data set or a network by name."""
