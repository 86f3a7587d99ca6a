"""Who may use the door, and how often: API keys, rates, and the web pages of other origins. All of it is off by default.

guard.py puts the three around an application; health paths pass. scripts.door.access.new_key makes a key (`make key NAME=...`).
"""
