"""What is minimised: terms, and the criterion that matches and sums them."""
