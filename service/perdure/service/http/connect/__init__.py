"""The API by the Connect protocol (connectrpc.com/docs/protocol): calls by POST and GET, streams of answers."""
