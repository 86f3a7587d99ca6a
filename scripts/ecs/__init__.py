"""A deployment on ECS. Imports the rooms below it; none of them imports it.

templates/     a CloudFormation template for each stack
deployments/   a file for each deployment: its region, its model and its parameters
preflight/     the command that checks a deployment before AWS does
deploy/        the commands that create, update and delete one
doctor/        the command that explains what is wrong with one
calls          the command that prints every AWS call of the others, for README.md
stacks         templates and deployments, read
aws            calls of AWS, with errors that name the call and the remedy
stack          one stack: its status, its events, waiting for it, deleting it
progress       lines with the time, questions, and the time limit
"""
