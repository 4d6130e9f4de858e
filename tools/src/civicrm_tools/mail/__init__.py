"""The operator's tools of a mail host: the queue, the log, and the switch of mailings. Standard library only."""
