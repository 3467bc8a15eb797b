"""Real servers for tests: private, on ports of their own, gone with the process that started them.

A module a server, each with a context manager that gives its URL and skips the test, or with CI=true fails it, where
the server is not on the machine.
"""
