"""Programs that measure this suite and this machine."""
