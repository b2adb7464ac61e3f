"""What others call the weights of each family of detectors, a module a family."""
