"""`wanbatch schedule`: runs at set times, each of them once, with a ledger that says what became of each."""
