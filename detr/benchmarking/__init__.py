"""What a detector costs: parameters, operations, time and memory, of the model and of exported files."""
