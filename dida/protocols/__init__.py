"""The line protocol on Twisted transports: bytes to messages to `cmd_` methods, and the client side."""
