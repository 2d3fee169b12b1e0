"""The fast core: token ids and tensors. Knows nothing of prompts, method names or files."""
