"""Adapters for agent frameworks: one module for each, which imports its framework.

An adapter takes a client and a mapping from the names of the agent's tools to :class:`~actpass.ToolAction` or
:data:`~actpass.UNGUARDED`. It requests a decision in the call that executes the tool, about the arguments that are
executed. A blocked call is the tool's answer to the model, in the form of the framework.
"""
