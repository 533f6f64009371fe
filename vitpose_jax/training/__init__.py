"""Training: sharding, optimizer, train state, tasks and checkpoints. The loop itself is `train.py`."""
