"""The machine of graph runs: tasks that wait for tasks."""
