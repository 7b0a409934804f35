"""The calls of clients, one module per subject. Each call takes a request message and returns a message.
`errors.translate` turns every exception into an error of `perdure.errors`. The transports (`rpc`, `http`) are thin
layers over these calls, which do not depend on them.
"""
