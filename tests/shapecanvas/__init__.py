"""ShapeCanvas: a small trained diffusion world in which erasing can be measured on two CPU cores."""
