"""The leases of Ray clusters: who is connected, which attempt goes where, when leases start and end."""
