"""From a class body to a checked Definition: reading its functions, drawing the graph, holding it against the rules."""
