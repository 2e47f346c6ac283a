"""Networks with exits: backbones, branches, quantization, lowering (torch)."""
