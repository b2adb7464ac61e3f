"""What every test starts from."""

import os

# Several test processes on few cores get in each other's way: with a thread per core in each, convolutions in
# float64 were eight times slower. Set before torch is imported, and inherited by commands that tests run.
os.environ.setdefault("OMP_NUM_THREADS", "1")
