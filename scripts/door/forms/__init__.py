"""A request's body, in whatever form it comes, becomes photos and a number of classes: body.py is the way in.

May be imported by the door's routes.
"""
