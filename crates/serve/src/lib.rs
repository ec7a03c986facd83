//! The completion engine: text in, text out, over a model folder
