"""The ToolServer: tools that run outside every sandbox, behind HTTP."""
