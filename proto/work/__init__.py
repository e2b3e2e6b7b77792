"""Long work, used on both ends: shards and their ledger, results that go to a store."""
