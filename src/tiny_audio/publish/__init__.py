"""A trained model for elsewhere: a folder that plain `transformers` loads, or that `tiny_audio.load_model` opens."""
