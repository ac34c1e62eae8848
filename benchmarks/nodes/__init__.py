"""Several nodes: who this process is among them, how they join, and what an agent does."""
