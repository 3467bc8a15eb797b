"""What every version of the code has stored, kept for ever: `kept/N/` is a store, and payloads, of the N-th generation.

A generation is a module of classes, `generations/first.py` and so on. Whoever changes what is stored (a message, a
saga's state, the machine's own rows, the store's tables) writes the next one: copies the last module, changes it with
its upcasts and migrations, adds it to GENERATIONS, and calls `python -m tests.golden`, which writes what is not kept
yet and touches nothing else. The tests read all that is kept with the classes of the last.
"""
