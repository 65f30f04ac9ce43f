"""The autoencoder, its file, its concepts, and the edit that erases them: torch and safetensors only."""
