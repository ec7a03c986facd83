//! Code in, token shards out: sources, filters, splits, shards and the loader
