"""Self-supervised pre-training: BYOL-A and COLA, their augmentations, the loop, its checkpoints."""
