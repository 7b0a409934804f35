"""The queue: slots, and the runs that wait for one."""
