"""Checks of a deployment before AWS sees it. The command is preflight.py; nothing outside this room imports it.

preflight   the table: cfn-lint, checkov (linters.py), the rules (judge.py) and the account (account.py)
resolve/    the templates as CloudFormation would resolve them; imports nothing of the rest
rules/      one function per known cause of a failed deployment; imports resolve
result      a row of that table
judge       the list of all rules, and which of them are broken
"""
