"""The leases of Ray clusters: connections, placement of attempts, start and end of leases."""
