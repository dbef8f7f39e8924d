"""The database's history, run by `store.Store.open` at each start."""
