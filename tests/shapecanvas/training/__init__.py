"""The stages of ShapeCanvas' training, which shapecanvas.train goes through."""
