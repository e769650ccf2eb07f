"""The line protocol on Twisted transports: from bytes to messages to `cmd_` methods, and the client side."""
