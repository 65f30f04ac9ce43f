"""Making SAE files beside ComfyUI: training and importing."""
