"""What scores are compared with: probes, linear heads, LoRA, training from scratch."""
