"""Rules over the resolved templates: one function per known cause of "service failed to stabilise". Imported by judge.

A rule takes all stacks and yields a Finding for each thing that would fail. Its docstring is printed under each finding:
what goes wrong, then how to fix it. A new rule goes into its module's RULES and gets two faults in tests/ecs/faults_of_*.py.
"""
