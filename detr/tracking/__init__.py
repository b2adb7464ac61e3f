"""What a run leaves behind and says: its folder, its rows, Weights & Biases, the terminal."""
