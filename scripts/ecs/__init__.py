"""A deployment on ECS. Imports the rooms below it; none of them imports it.

templates/     a CloudFormation template for each stack
deployments/   a file for each deployment: its region, its model and its parameters
stacks         both of them, read
preflight/     the command that checks a deployment before AWS does
deploy/        the commands that create, update and delete one
doctor/        the command that explains what is wrong with one
"""
