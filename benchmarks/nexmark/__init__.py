"""Nexmark after its published definitions: an auction house's people, auctions and bids, and questions about them."""
