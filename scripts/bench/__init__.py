"""How fast a server is, and which settings make it faster.

Commands: bench (load on a server beside the in-process ceiling), ceiling (that ceiling, in a process of its own), tune (settings of
handler/model-config.yaml for a latency goal), start (how soon a server answers). Nothing else imports this room.
"""
