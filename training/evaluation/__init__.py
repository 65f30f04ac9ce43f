"""What `sae-eraser evaluate` measures: pictures, classifiers that judge them, scores, results."""
