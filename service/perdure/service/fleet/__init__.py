"""Several engines over one database: who is there, who owns which run, and how they reach each other."""
