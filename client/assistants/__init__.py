"""Neurons for assistants: a server of the Model Context Protocol (MCP) over the client."""
