"""How much the answers depend on how the camera stood: the same questions about rotated and tilted panoramas."""
