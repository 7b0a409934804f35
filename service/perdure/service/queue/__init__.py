"""Who may run: slots, and the queue before them."""
