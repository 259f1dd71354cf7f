"""From folders of sound to noisy and clean training items."""
