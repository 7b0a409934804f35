"""The calls that clients make, one module a subject: each takes a request message and gives a message.

Whatever they raise, `errors.translate` turns into an error of `perdure.errors`. Transports (`rpc`, `http`) are thin
faces of these calls; nothing here knows one.
"""
