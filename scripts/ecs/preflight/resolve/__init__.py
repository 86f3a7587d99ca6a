"""The templates as CloudFormation would resolve them, without calling AWS. Imported by rules, account and preflight.

intrinsics        !Ref, !Sub, !If and so on in one template
naming            what a reference to a resource becomes: a name, an ARN, or a symbol that can be compared
templates         all stacks of a deployment, outputs of one passed on to the next
wiring            from a service to its tasks, instances and load balancer
security_groups   who may reach what
permissions       what a role may do
"""
