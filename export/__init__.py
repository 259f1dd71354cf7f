"""The offline house: models, training, export and proof. Needs torch; the runtime never imports it."""
