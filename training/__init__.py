"""Offline: the activation cache and the trainer that makes an SAE file of it. Never imports ComfyUI."""
