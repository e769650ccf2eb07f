"""The console as values: scripts, the line editor, completion, tables, colours, the guide.

No Twisted, clock or socket is used here; `dida.puppetmaster` plays the scripts.
"""
