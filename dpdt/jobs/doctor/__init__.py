"""Is this machine, is this cluster fit?"""
