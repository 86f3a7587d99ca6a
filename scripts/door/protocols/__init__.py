"""The protocols of others: the open inference protocol, KServe's first one, SageMaker's. Each file gives routes for Starlette.

Their photos go through Predictions, as those of our own paths do (several.py); what differs is the form of requests and answers.
"""
