//! GPT-2: configuration, parameters, forward and backward, KV-cache decoding, Hugging Face files
