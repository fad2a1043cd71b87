"""Built-in sample data: image folders that are drawn, for trying things out where there are no photographs."""
