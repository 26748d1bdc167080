"""The indexer: crawl, load, batch, embed, store."""
