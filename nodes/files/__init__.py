"""SAE files: the folder models/sae, loading, looking into them."""
