"""The explorer: neurons in a web browser (`polysem explore`; extra `explorer`).

It asks the server only through the client. What it sends to the browser are pages and JSON; keys stay here.
"""
